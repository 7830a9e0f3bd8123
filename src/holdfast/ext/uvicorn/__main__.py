"""`python -m holdfast.ext.uvicorn package.module:app`: serve an application, with an end that loses nothing."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from uvicorn.config import LOG_LEVELS

from ...asgi.log_lines import JsonLines
from ...errors import ConfigurationError
from ...shutdown import DRAIN, DrainSettings
from .server import exit_within, serve
from .tls import Tls

__all__ = ["log_by_default", "main"]


def _parser() -> argparse.ArgumentParser:
    defaults = DrainSettings()
    parser = argparse.ArgumentParser("python -m holdfast.ext.uvicorn", description=__doc__)
    parser.add_argument("app", help="where the application is: package.module:name")
    parser.add_argument("--factory", action="store_true", help="the name is a function that makes the application")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="the port to listen on")
    parser.add_argument("--uds", help="listen on this Unix socket instead")
    parser.add_argument("--fd", type=int, help="listen on this file descriptor instead")
    parser.add_argument("--reuse-port", action="store_true", help="let another process listen on the same port")
    parser.add_argument(
        "--backlog", type=int, default=2048, help="connections the kernel may hold until they are accepted"
    )
    parser.add_argument("--keep-alive", type=float, default=75.0, help="seconds an idle connection is kept")
    parser.add_argument(
        "--lame-duck",
        type=float,
        default=defaults.lame_duck,
        help="seconds to go on answering after the signal, not ready",
    )
    parser.add_argument(
        "--finish", type=float, default=defaults.finish, help="seconds that requests under way may take then"
    )
    parser.add_argument(
        "--cancel", type=float, default=defaults.cancel, help="seconds that cancelled requests may take to clean up"
    )
    parser.add_argument("--tls-certificate", help="the server's certificate chain, PEM; taken anew when it changes")
    parser.add_argument("--tls-key", help="its private key")
    parser.add_argument("--tls-client-authorities", help="ask clients for a certificate of one of these authorities")
    parser.add_argument(
        "--workers", type=int, help="1 alone: for more, start several processes, on one port with --reuse-port"
    )
    parser.add_argument(
        "--log-level", type=str.lower, default="info", choices=tuple(LOG_LEVELS), help="the least that is written"
    )
    parser.add_argument(
        "--access-log", action="store_true", help="have uvicorn log each request, with its query string"
    )
    parser.add_argument("--app-dir", default=".", help="the folder that is looked in first for the module")
    return parser


def _refuse_half_of_tls(given: argparse.Namespace) -> None:
    for option, value in (("--tls-key", given.tls_key), ("--tls-client-authorities", given.tls_client_authorities)):
        if value is not None:
            raise ConfigurationError(
                f"{option} needs --tls-certificate beside it: without one the server speaks plain HTTP"
            )


def log_by_default(level: str) -> None:
    """Write what Holdfast logs to stderr, a line for each request among it, unless the application says where that goes.

    The application may say so before or after: it is looked for with each record.

    Args:
        level: the least that is written, in uvicorn's words.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    handler.addFilter(lambda record: not _is_written(record.name, besides=handler))
    logger = logging.getLogger("holdfast")
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        # uvicorn's "trace" is below all that is known here.
        logger.setLevel(logging.getLevelNamesMapping().get(level.upper(), logging.DEBUG))


def _is_written(name: str, *, besides: logging.Handler) -> bool:
    """Whether another handler than `besides` gets what the logger `name` is told."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(handler is not besides for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve as the command line says; the exit code."""
    given = _parser().parse_args(arguments)
    sys.path.insert(0, str(Path(given.app_dir).resolve()))
    tls = None
    try:
        if given.tls_certificate is None:
            _refuse_half_of_tls(given)
        else:
            tls = Tls(
                certificate=given.tls_certificate, key=given.tls_key, client_authorities=given.tls_client_authorities
            )
        log_by_default(given.log_level)
        code = serve(
            given.app,
            host=given.host,
            port=given.port,
            uds=given.uds,
            fd=given.fd,
            factory=given.factory,
            reuse_port=given.reuse_port,
            backlog=given.backlog,
            workers=given.workers,
            keep_alive=given.keep_alive,
            settings=DrainSettings(lame_duck=given.lame_duck, finish=given.finish, cancel=given.cancel),
            drain=DRAIN,
            tls=tls,
            log_level=given.log_level,
            access_log=given.access_log,
        )
    except ConfigurationError as error:
        sys.stderr.write(f"The server cannot start: {error}\n")
        return 2
    # Everything is closed: a thread that nobody can end does not hold up the exit.
    exit_within(5.0)
    return code


if __name__ == "__main__":
    sys.exit(main())
