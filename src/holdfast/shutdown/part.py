"""`Part`: the end of one application in a process where others may go on."""

from __future__ import annotations

import weakref

from .drain import Drain, Work
from .phases import ORDER, DrainSettings, Phase, Stage

__all__ = ["Part"]


class Part(Drain):
    """What ends with one application: its work, and the steps that are registered here.

    It ends alone, as any drain does, or with the process: it is at least as far as the whole, which waits for its work and takes
    those of its steps that nobody has taken yet. The whole does not keep it alive: it is forgotten with its application.

    Args:
        of: the end of the process, or of the application in which this one stands.
    """

    def __init__(self, of: Drain) -> None:
        self._of = of
        super().__init__(of.settings, clock=of._clock)
        self._runs = 0
        with self.whole._lock:
            self._attach()

    @classmethod
    def of(cls, drain: Drain) -> Part:
        """`drain` itself if it is a part, else a new part of it."""
        return drain if isinstance(drain, Part) else cls(drain)

    def _attach(self) -> None:
        self._of._parts = (*(one for one in self._of._parts if one() is not None), weakref.ref(self))

    def join(self, of: Part) -> None:
        """End with `of` from now on, a part of the same whole: this application stands inside of its application."""
        if self._of is of or self in of._up():  # two that are mounted in each other stay as they are
            return
        with self.whole._lock:
            self._of._parts = tuple(one for one in self._of._parts if one() is not self)
            self._of = of
            self._attach()
            self._begin_anew()

    def _up(self) -> list[Drain]:
        return [self, *(self._of._up() if isinstance(self._of, Part) else ())]

    # -- what is known -------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> DrainSettings:
        """Those of the whole."""
        return self.whole.settings

    @settings.setter
    def settings(self, settings: DrainSettings) -> None:
        self.whole.settings = settings

    @property
    def whole(self) -> Drain:
        """The end of the process."""
        return self._of.whole

    @property
    def phase(self) -> Phase:
        """How far the end has come, its own or that of what it is a part of."""
        return max(self._stage.phase, self._of.phase, key=ORDER.__getitem__)

    @property
    def is_draining(self) -> bool:
        """Whether the end has begun, its own or that of what it is a part of."""
        return self._stage.phase is not Phase.SERVING or self._of.is_draining

    def has_reached(self, phase: Phase) -> bool:
        """Whether the end has come as far as `phase`, or further."""
        return ORDER[self.phase] >= ORDER[phase]

    def leave(self, work: Work) -> None:
        """`work` is over; harmless if it was not under way."""
        self._work.pop(work, None)
        if self.is_draining:
            self.whole._wake()

    # -- the application -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The application starts, also once more: it serves, and its steps are there to be taken."""
        whole = self.whole
        whole.restart()
        with whole._lock:
            self._runs += 1
            if self._runs == 1:
                self._begin_anew()

    def _begin_anew(self) -> None:
        for drain in self._with_parts():
            drain._stage = Stage(Phase.SERVING, self._clock.monotonic())
            drain._forget()

    def over(self) -> None:
        """The application, which was started, is over, or could not start."""
        with self.whole._lock:
            self._runs -= 1

    def ending(self) -> Drain | None:
        """What is to end when the application does: the whole, or, where others run, this part alone.

        None: it was started twice, and goes on.
        """
        with self.whole._lock:
            if self._runs > 1:
                return None
            own = set(self._with_parts())
            others = (drain for drain in self.whole._with_parts() if isinstance(drain, Part) and drain not in own)
            return self if any(other._runs for other in others) else self.whole
