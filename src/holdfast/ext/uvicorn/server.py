"""`Server` and `serve`: uvicorn, with an end that has an order.

    SIGTERM ─► not ready, `Connection: close` ─► lame duck ─► stop accepting ─► finish ─► cancel, await ─► flush
            ─► the application's own shutdown ─► close ─► exit code 0

A second signal ends the process at once. SIGINT (Ctrl-C) skips the lame duck.

Facts about uvicorn (0.54) that this builds on, or around: it notices its own `should_exit` within 0.1 s, closes its listeners in
the same step in which it ends idle connections, does not await the tasks it cancels, has no limit unless told, and raises the
signal again at the end, so that the exit status is that of a killed process.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import logging
import os
import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from ...asgi.draining import Draining
from ...clock import SYSTEM_CLOCK
from ...deadline import seconds
from ...errors import ConfigurationError
from ...shutdown import DRAIN, Drain, DrainSettings, Work
from .tls import Tls, TlsContext, seeing_peers

if TYPE_CHECKING:
    from datetime import timedelta

    from ...asgi.interface import App

__all__ = ["Server", "exit_within", "serve"]

_log = logging.getLogger("holdfast")
_uvicorn_log = logging.getLogger("uvicorn.error")
"""Which uvicorn has configured to be seen."""

_FAILED_TO_START = 3
"""As uvicorn's own."""

_NEW_S = 1.0
"""How long a connection that was accepted last may take to send its request (Go's `Server.Shutdown` gives 5 s)."""

_STEP_S = 0.02
"""How often it is looked whether connections have ended."""

_FAREWELL_S = 0.5
"""How long a client may take to confirm the end of an idle TLS connection: one that keeps it in a pool never does, and asyncio
waits for 30 s."""

_EXIT_WITHIN_S = 5.0
"""How long threads that nobody can end may hold up the exit once everything is closed."""


class Server(uvicorn.Server):
    """uvicorn's server with an end that loses nothing.

    Args:
        config: uvicorn's configuration; `timeout_graceful_shutdown` is not used, the drain's settings are.
        drain: what is drained; default the process's own.
        tls: certificates; None: those of `config`, if any.
        ends_process: the process is the server's: a thread that never ends does not keep it from exiting (with 1, and the stacks
            of all threads on stderr).

    Raises:
        ConfigurationError: the configuration asks for several workers, for reloading, or the TLS files cannot be used.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain: Drain = DRAIN,
        tls: Tls | None = None,
        ends_process: bool = False,
    ) -> None:
        _refuse_supervisors(config.workers, reload=config.reload)
        super().__init__(config)
        self.drain = drain
        self.tls = None if tls is None else TlsContext(tls, SYSTEM_CLOCK)
        self._asks_clients = tls is not None and tls.client_authorities is not None
        self._ends_process = ends_process
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = False
        self._background: set[asyncio.Task[None]] = set()

    # -- the beginning -------------------------------------------------------------------------------------------------

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with the application inside `Draining`."""
        self._loop = asyncio.get_running_loop()
        config = self.config
        app: Any = config.loaded_app
        self._draining = Draining(app, drain=self.drain, watch_signals=False)
        config.loaded_app = self._draining
        if self.tls is not None:
            config.ssl = self.tls.context
            if self._asks_clients:
                protocol: Any = config.http_protocol_class
                config.http_protocol_class = seeing_peers(protocol)
        await super().startup(sockets)
        if self.tls is not None and self.started:
            self._spawn(self.tls.watch())
            if hasattr(signal, "SIGHUP") and self._owns_signals():
                self._loop.add_signal_handler(signal.SIGHUP, self.tls.reload)
        if self.started:
            longest_s = self.drain.longest_s
            _uvicorn_log.info(
                "Shutdown takes %.0f s at most: have the supervisor allow %.0f s", longest_s, longest_s + 5
            )

    @staticmethod
    def _owns_signals() -> bool:
        return signal.getsignal(signal.SIGTERM) not in {signal.SIG_DFL, signal.SIG_IGN, None}

    def _spawn(self, work: Any) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- the signal ----------------------------------------------------------------------------------------------------

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's signature of a handler
        """The first signal begins the end; the second ends the process."""
        if self._told:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._told = True
        if self._loop is None or not self.started:
            self.should_exit = True  # nobody was served yet
        else:
            self._loop.call_soon_threadsafe(self._begin, sig != signal.SIGINT)

    def _begin(self, lame_duck: bool = True) -> None:
        self.drain.begin(lame_duck=lame_duck)
        self._spawn(self._wait_for_the_lame_duck())

    async def _wait_for_the_lame_duck(self) -> None:
        await self.drain.lame_duck_async()
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn's; a process that has had its number of requests ends in order as well."""
        if not await super().on_tick(counter):
            return False
        if self.should_exit:
            return True
        self.config.limit_max_requests = None
        self.__dict__["limit_max_requests"] = None
        self._begin()
        return False

    # -- the end -------------------------------------------------------------------------------------------------------

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, finish, cancel and await the rest, then the application's own shutdown: within the limits."""
        # With other applications in the process, and no signal, only this one ends.
        drain = self._draining.part.ending() or self.drain
        drain.begin(lame_duck=False)
        await self._stop_accepting()
        for listener in sockets or []:
            listener.close()
        connections = Work("connections")
        drain.enter(connections)
        leaving = asyncio.ensure_future(self._leave(drain, connections))
        await drain.finish_async()
        leaving.cancel()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        if self._ends_process:
            exit_within(drain.steps_s + _EXIT_WITHIN_S)
        # Within it `Draining` flushes before and closes after the application; here they come where that was not reached.
        ending = asyncio.ensure_future(self.lifespan.shutdown())
        await asyncio.wait({ending}, timeout=drain.steps_s)
        if not ending.done():
            ending.cancel()
            _log.error("shutdown: the application's own shutdown was still at it after %.1f s", drain.steps_s)
        await drain.flush_async()
        await drain.close_async()
        for task in list(self._background):
            task.cancel()
        if self._ends_process:
            exit_within(_EXIT_WITHIN_S)

    async def _stop_accepting(self) -> None:
        """Close the listeners, and serve the connections that the kernel had accepted for them until then.

        Closing alone would reset those: a client has sent its request on one that nobody here has seen.
        """
        loop = asyncio.get_running_loop()
        listeners = [listener.dup() for server in self.servers for listener in server.sockets]
        for server in self.servers:
            server.close()
        accepted = []
        for listener in listeners:
            listener.setblocking(False)
            try:
                while True:
                    accepted.append(listener.accept()[0])
            except OSError:  # nobody is left
                listener.close()
        for connection in accepted:
            connection.setblocking(False)
            self._spawn(self._adopt(loop, connection))
        # A turn for what has arrived on open connections to be read, before the idle ones are closed.
        await SYSTEM_CLOCK.sleep_async(_STEP_S)

    async def _adopt(self, loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        config = self.config
        protocol: Any = config.http_protocol_class
        made = functools.partial(protocol, config=config, server_state=self.server_state, app_state=self.lifespan.state)
        try:
            await loop.connect_accepted_socket(made, connection, ssl=config.ssl)
        except OSError:  # the client is gone, or could not agree on TLS
            connection.close()

    async def _leave(self, drain: Drain, work: Work) -> None:
        """End each connection as soon as it is idle; `work` is over when there are none."""
        state = self.server_state
        until = SYSTEM_CLOCK.monotonic() + _NEW_S
        told: set[object] = set()
        try:
            while state.connections or state.tasks:
                is_early = SYSTEM_CLOCK.monotonic() < until
                for connection in [other for other in state.connections if other not in told]:
                    # One whose first request has not come yet was opened in good faith.
                    if not (is_early and getattr(connection, "cycle", connection) is None):
                        told.add(connection)
                        self._tell(connection)
                await SYSTEM_CLOCK.sleep_async(_STEP_S)
        finally:
            drain.leave(work)

    def _tell(self, connection: Any) -> None:
        """Have a connection end when it is idle; over TLS without waiting for its client's word."""
        # asyncio's own, below its TLS. Another loop's is not to be seen: there the limit of `finish` has to do.
        below = getattr(getattr(connection.transport, "_ssl_protocol", None), "_transport", None)
        connection.shutdown()
        if below is not None:
            self._part_later(connection, below, was_idle=False)

    def _part_later(self, connection: Any, below: asyncio.Transport, *, was_idle: bool) -> None:
        if connection not in self.server_state.connections:
            return
        is_idle = _is_idle(connection) and below.get_write_buffer_size() == 0
        if is_idle and was_idle:
            below.abort()
            return
        asyncio.get_running_loop().call_later(
            _FAREWELL_S, functools.partial(self._part_later, connection, below, was_idle=is_idle)
        )


def _is_idle(connection: Any) -> bool:
    # A websocket has no cycle, and ends with a closing frame of its own.
    cycle = getattr(connection, "cycle", connection)
    return cycle is None or getattr(cycle, "response_complete", False)


def exit_within(limit_s: float) -> None:
    """Have the process go after `limit_s` seconds whatever its threads do, with 1 and their stacks on stderr."""
    try:
        faulthandler.dump_traceback_later(limit_s, exit=True)
    except (AttributeError, OSError, RuntimeError, ValueError):
        # There is no stderr (a program without a console), or another in its place, without a descriptor: it goes all the same.
        faulthandler.dump_traceback_later(limit_s, exit=True, file=os.open(os.devnull, os.O_WRONLY))


def serve(
    app: App | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    drain: Drain = DRAIN,
    settings: DrainSettings | None = None,
    tls: Tls | None = None,
    keep_alive: float | timedelta = 75.0,
    backlog: int = 2048,
    reuse_port: bool = False,
    **options: Any,
) -> int:
    """Serve `app` in this process until a signal; blocks. From the main thread, where signals arrive.

    Args:
        app: an ASGI application, or where it is: `package.module:name`.
        host, port: where to listen (TCP). `uds` or `fd` among the options instead, as uvicorn has them.
        drain: what is drained; default the process's own.
        settings: how long each part of the end may take; None: those of `drain`.
        tls: certificates; None: plain HTTP.
        keep_alive: seconds (or `timedelta`) that an idle connection is kept; default 75 s, above 0. Longer than the load
            balancer's (60 s on most): who closes first must be the one who sends requests.
        backlog: connections that the kernel may hold until they are accepted; default 2048.
        reuse_port: let a second process listen on the same port (SO_REUSEPORT), its successor for instance. Not with
            `uds` or `fd`.
        options: everything else that `uvicorn.Config` takes (`log_level`, `access_log`, `http`, `limit_concurrency`, ...).
            `proxy_headers` is off unless asked for: `holdfast.asgi` sees through proxies, and knows which to trust. So is
            `access_log`, which holds query strings: `holdfast.asgi.access_log` writes its own line.

    Returns:
        The exit code: 0 after an orderly end; 3 if it could not start.

    Raises:
        ConfigurationError: the settings cannot work, several workers or reloading above all.
    """
    keep_alive_s = seconds(keep_alive, name="keep_alive")
    if keep_alive_s <= 0:
        raise ConfigurationError("keep_alive must be more than 0 seconds")
    _refuse_supervisors(options.pop("workers", None), reload=options.pop("reload", False))
    if reuse_port and (options.get("uds") is not None or options.get("fd") is not None):
        raise ConfigurationError(
            "reuse_port is for a port of its own: leave it out where uds or fd says where to listen"
        )
    if settings is not None:
        drain.settings = settings
    options.setdefault("proxy_headers", False)
    options.setdefault("access_log", False)
    config = uvicorn.Config(
        cast("Any", app),  # the same protocol in other words
        host=host,
        port=port,
        timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]  # a number of seconds for call_later
        backlog=backlog,
        workers=1,
        **options,
    )
    server = Server(config, drain=drain, tls=tls, ends_process=True)
    try:
        listeners = [_listener(host, port)] if reuse_port else None
    except OSError as error:
        _uvicorn_log.error("cannot listen on %s, port %d: %s", host, port, error.strerror)
        return _FAILED_TO_START
    try:
        server.run(sockets=listeners)
    except SystemExit as error:  # uvicorn could not start, and has said why
        return error.code if isinstance(error.code, int) else _FAILED_TO_START
    finally:
        faulthandler.cancel_dump_traceback_later()
    return 0 if server.started else _FAILED_TO_START


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _refuse_supervisors(workers: int | None, *, reload: bool) -> None:
    if workers is None:
        asked = os.environ.get("WEB_CONCURRENCY", "1")
        workers = int(asked) if asked.isdecimal() else 1
    if workers > 1:
        raise ConfigurationError(
            f"{workers} workers in one process group cannot end without losing requests: their parent holds the listening "
            "socket, so the kernel goes on accepting connections that nobody will answer. Start several processes of one "
            "worker each behind a balancer, or on one port with reuse_port=True; unset WEB_CONCURRENCY"
        )
    if reload:
        raise ConfigurationError("reload is for development: run `uvicorn --reload` for it")
