"""What a drill does by itself, without a nemesis: to the wire, to its own clients, and inside them where there is no wire.

Each has `start()`, which says what it does, and `heal()`, which undoes it and may be called again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigurationError
from ..faultproxy import Down, FaultProxy, Handle, Kind, Phase, ResetPeer, Timeout, Toxic
from .subjects import SUBJECTS, Remote

if TYPE_CHECKING:
    from .crew import Crew
    from .place import Place
    from .settings import DrillSettings

__all__ = ["DISTURBANCES", "Disturbance", "disturbance_named"]

_VANISHING = 0.01


class Disturbance(Protocol):
    """Something that goes wrong until it is healed.

    Attributes:
        name: what the command line and the history call it.
        lasting: whether it lasts as long as the phase of faults; otherwise it comes and goes.
    """

    name: str
    lasting: bool

    def start(self) -> dict[str, Any]:
        """Begin; what a report should know of it."""

    def heal(self) -> None:
        """Undo it; harmless when there is nothing to undo."""


class _OnTheWire:
    """Toxics in every proxy."""

    def __init__(
        self,
        name: str,
        proxies: Mapping[str, FaultProxy],
        toxics: Sequence[tuple[Toxic, Phase, float]],
        told: dict[str, Any],
        *,
        lasting: bool,
    ) -> None:
        self.name = name
        self.lasting = lasting
        self._proxies = proxies
        self._toxics = toxics
        self._told = told
        self._handles: list[Handle] = []

    def start(self) -> dict[str, Any]:
        for proxy in self._proxies.values():
            for toxic, at, toxicity in self._toxics:
                on = None if at is Phase.ALWAYS else Kind.COMMIT
                self._handles.append(proxy.add(toxic, at, on=on, toxicity=toxicity))
        return self._told

    def heal(self) -> None:
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()


class _InTheClients:
    """Faults injected below the subject, where there is no wire."""

    name = "commit"
    lasting = True

    def __init__(self, crew: Crew, share: float) -> None:
        self._crew = crew
        self._share = share

    def start(self) -> dict[str, Any]:
        self._crew.inject(self._share)
        return {"share": self._share, "injected": True}

    def heal(self) -> None:
        self._crew.inject(0.0)


class _KillClient:
    """SIGKILL for one client after the other; healing starts its successor."""

    name = "kill-client"
    lasting = False

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._killed: list[int] = []
        self._next = 0

    def start(self) -> dict[str, Any]:
        place = self._crew.kill_one(self._next)
        self._next += 1
        self._killed.append(place)
        return {"client": place}

    def heal(self) -> None:
        while self._killed:
            self._crew.bring_back(self._killed.pop())


def _commit(place: Place, crew: Crew, settings: DrillSettings) -> Disturbance:
    if not place.proxies:
        if issubclass(SUBJECTS[settings.subject], Remote):
            raise ConfigurationError(
                f"the subject {settings.subject!r} opens connections that the drill cannot disturb here: drill it on a server "
                "(--server, or a database URL), or choose the fault kill-client"
            )
        return _InTheClients(crew, settings.share)
    # Half of them never reach the server, half are carried out: to the client both look the same.
    half = settings.share / 2
    toxics = [(ResetPeer(), Phase.BEFORE, half), (ResetPeer(), Phase.ANSWERED, half)]
    return _OnTheWire("commit", place.proxies, toxics, {"share": settings.share}, lasting=True)


def _blackhole(place: Place, _crew: Crew, _settings: DrillSettings) -> Disturbance:
    toxics = [(Timeout(), Phase.BEFORE, _VANISHING / 2), (Timeout(), Phase.ANSWERED, _VANISHING / 2)]
    return _OnTheWire("blackhole", place.proxies, toxics, {"share": _VANISHING}, lasting=True)


def _outage(place: Place, _crew: Crew, _settings: DrillSettings) -> Disturbance:
    return _OnTheWire("outage", place.proxies, [(Down(), Phase.ALWAYS, 1.0)], {"outage": True}, lasting=False)


def _kill_client(_place: Place, crew: Crew, _settings: DrillSettings) -> Disturbance:
    return _KillClient(crew)


DISTURBANCES: dict[str, Callable[[Place, Crew, DrillSettings], Disturbance]] = {
    "commit": _commit,
    "blackhole": _blackhole,
    "outage": _outage,
    "kill-client": _kill_client,
}
"""How each is made: `commit` resets connections around a share of all COMMITs, half of them carried out; `blackhole` lets one
in a hundred vanish without a word; `outage` closes the port; `kill-client` ends a client with SIGKILL."""

_NEEDS_A_WIRE = frozenset({"blackhole", "outage"})


def disturbance_named(name: str, place: Place, crew: Crew, settings: DrillSettings) -> Disturbance:
    """One of `DISTURBANCES`.

    Raises:
        ConfigurationError: SQLite has no wire to do it on.
    """
    if name in _NEEDS_A_WIRE and not place.proxies:
        raise ConfigurationError(
            f"the fault {name!r} is done to a network connection, and {settings.backend} has none here"
        )
    return DISTURBANCES[name](place, crew, settings)
