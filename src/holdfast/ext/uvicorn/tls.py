"""TLS for the server: certificates that are renewed while it runs, and clients that prove who they are."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...asgi.peer import PEER_KEY, identity_from
from ...deadline import seconds
from ...errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import timedelta

    from ...clock import Clock

__all__ = ["Tls", "TlsContext", "seeing_peers"]

_log = logging.getLogger("holdfast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What the server shows, and what it asks of clients. TLS 1.2 or newer.

    Attributes:
        certificate: the file with the server's chain, PEM.
        key: the file with its private key; None: it is in `certificate`.
        password: of the key; never shown.
        client_authorities: the file with the authorities of clients' certificates. Given: who cannot show a certificate of
            theirs gets no connection. None: nobody is asked.
        reload_every: seconds (or `timedelta`) between two looks at the files; default 10 s, above 0. At SIGHUP they are taken at
            once.

    Raises:
        ConfigurationError: `reload_every` is not above 0.
    """

    certificate: str | os.PathLike[str]
    key: str | os.PathLike[str] | None = None
    password: str | None = field(default=None, repr=False)
    client_authorities: str | os.PathLike[str] | None = None
    reload_every: float | timedelta = 10.0

    def __post_init__(self) -> None:
        if seconds(self.reload_every, name="reload_every") <= 0:
            raise ConfigurationError("reload_every must be more than 0 seconds")


class TlsContext:
    """The `ssl.SSLContext` of a server, kept up to date. Belongs to one event loop.

    A new certificate serves new handshakes; open connections keep theirs. Files that do not work (half written, key and
    certificate of different pairs) are logged and change nothing. New client authorities are trusted after a reload; that one is
    trusted no longer takes a restart, because OpenSSL only adds.

    Args:
        tls: the files.
        clock: waits between two looks.

    Attributes:
        context: what the server listens with.
        reloads: how often a new certificate was taken.

    Raises:
        ConfigurationError: the files cannot be read or do not fit together.
    """

    def __init__(self, tls: Tls, clock: Clock) -> None:
        self._tls = tls
        self._clock = clock
        self.reloads = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.client_authorities is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
        try:
            self._seen = self._stamps()
            self._load(self.context)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigurationError(f"the TLS files cannot be used: {_reason(error)}") from None

    def _load(self, context: ssl.SSLContext) -> None:
        # The lambda keeps OpenSSL from asking for a password on the terminal.
        password = self._tls.password
        context.load_cert_chain(self._tls.certificate, self._tls.key, lambda: password or "")
        if self._tls.client_authorities is not None:
            context.load_verify_locations(self._tls.client_authorities)

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        files = (self._tls.certificate, self._tls.key, self._tls.client_authorities)
        # Links are followed: Kubernetes swaps a link when it renews a mounted secret.
        found = (Path(file).stat() for file in files if file is not None)
        return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in found)

    def reload(self, *, unless_same: bool = False) -> bool:
        """Take the files as they are now; whether that was done.

        Args:
            unless_same: do nothing if they have not changed since the last look.
        """
        try:
            stamps = self._stamps()
            if unless_same and stamps == self._seen:
                return False
            # Tried on the side first: a key that does not fit would leave the context in use without either.
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            self._load(self.context)
        except (OSError, ValueError) as error:
            _log.error("the renewed TLS files cannot be used, the former ones stay: %s", _reason(error))
            return False
        self._seen = stamps
        self.reloads += 1
        _log.info("renewed TLS certificate taken for new connections")
        return True

    async def watch(self) -> None:
        """Look at the files now and then, for ever."""
        while True:
            await self._clock.sleep_async(seconds(self._tls.reload_every))
            self.reload(unless_same=True)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no file {error.filename}"
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__


def seeing_peers(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """`protocol`, one of uvicorn's, putting the identity of the client's certificate into the state of each scope."""

    class SeeingPeers(protocol):  # type: ignore[valid-type,misc]
        app_state: dict[str, Any]

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            certificate = transport.get_extra_info("peercert")
            if certificate:
                # A new dictionary: the former is the application's, shared by all connections.
                self.app_state = {**self.app_state, PEER_KEY: identity_from(certificate)}

    return SeeingPeers
