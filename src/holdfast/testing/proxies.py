"""A fault proxy in front of the database that a URL names."""

from __future__ import annotations

from ..errors import ConfigurationError
from ..faultproxy import FaultProxy
from ..faultproxy.address import Address, read_address
from ..faultproxy.journal import OnEvent
from ..faultproxy.proxy import Wire

__all__ = ["DatabaseProxy", "fault_proxy"]

_WIRES: dict[str, Wire] = {
    "mysql": "mysql",
    "mariadb": "mysql",
    "postgresql": "postgresql",
    "postgres": "postgresql",
}
_PORTS: dict[Wire, int] = {"mysql": 3306, "postgresql": 5432}


class DatabaseProxy(FaultProxy):
    """A fault proxy that knows the URL of what it stands before. Made by `fault_proxy`."""

    def __init__(
        self, address: Address, upstream: tuple[str, int], protocol: Wire, *, seed: int, on_event: OnEvent | None
    ) -> None:
        super().__init__(upstream, protocol, seed=seed, on_event=on_event)
        self._address = address

    @property
    def url(self) -> str:
        """What it was made from, with the proxy's host and port. As secret as that.

        Raises:
            UsageError: the proxy does not run.
        """
        return f"{self._address.before}{self.host}:{self.port}{self._address.after}"


def fault_proxy(
    url: str, *, protocol: Wire | None = None, seed: int = 0, on_event: OnEvent | None = None
) -> DatabaseProxy:
    """A proxy in front of one database server, to be used as a context manager.

    Args:
        url: as SQLAlchemy takes it (`mysql+pymysql://user:password@host:port/database`), or `host:port` alone.
        protocol: what is spoken there: `mysql` (MariaDB as well), `postgresql`, or `tcp` for anything; by default what the URL
            says. `host:port` needs it.
        seed: of every draw (default 0).
        on_event: called with each event, in the proxy's thread.

    Returns:
        The proxy; in its block it has `url`, to connect to instead. Safe in threads.

    Raises:
        ConfigurationError: the address names no single host that is reached by TCP, or an option in it leads elsewhere, or the
            protocol is not known.
    """
    if not isinstance(url, str):
        raise ConfigurationError("pass the URL as a string; of a URL object: url.render_as_string(hide_password=False)")
    address = read_address(url)
    spoken = protocol or _WIRES.get(address.scheme.partition("+")[0])
    if spoken is None:
        raise ConfigurationError(
            "the address does not tell what is spoken there; say protocol='mysql', 'postgresql' or 'tcp'"
        )
    port = address.port or _PORTS.get(spoken)
    if port is None:
        raise ConfigurationError("the address names no port, and of 'tcp' there is no usual one")
    return DatabaseProxy(address, (address.host, port), spoken, seed=seed, on_event=on_event)
