"""An engine in real time, on an asyncio loop. Same order of events as in virtual time.

Steps are chained from planned end to planned start, so a late timer delays what is seen but not the
engine; steps that are over by now end before anything else happens at this instant.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable

from epp.sim.engine import Engine
from epp.sim.sequence import Rejected, Sequence, Work
from epp.sim.step import Step

_TICK_S = 0.0005
"""uvloop rounds delays to milliseconds; half of one more never wakes us early."""


class RealTime:
    """Drives one engine. `speed` seconds of the engine pass in one real second."""

    def __init__(
        self,
        engine: Engine,
        on_step: Callable[[Step], None],
        loop: asyncio.AbstractEventLoop,
        *,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.speed = speed
        self._on_step = on_step
        self._loop = loop
        self._clock = clock
        self._origin = clock()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._settling = False
        self._closed = False

    @property
    def now(self) -> float:
        """The engine's time."""
        return (self._clock() - self._origin) * self.speed

    def add(self, work: Work) -> Sequence:
        """A request arrives. Raises Rejected."""
        return self.add_all((work,))[0]

    def add_all(self, works: Iterable[Work]) -> list[Sequence]:
        """Several at one instant, or none of them. Raises Rejected."""
        now = self._settle()
        added: list[Sequence] = []
        try:
            for work in works:
                added.append(self.engine.add(work, now))  # noqa: PERF401  # kept for the way back
        except Rejected:
            for seq in added:
                self.engine.abort(seq, now)
            raise
        finally:
            self._arm()
        return added

    def abort(self, seq: Sequence) -> None:
        self.engine.abort(seq, self._settle())
        self._arm()

    def close(self) -> None:
        """No more steps, whatever is still added or aborted."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._timer_at = math.inf

    def _settle(self) -> float:
        """Ends the steps that are over; returns now. From within on_step: now, and nothing else."""
        now = self.now
        if self._settling:
            return now
        engine = self.engine
        self._settling = True
        try:
            while engine.due <= now and not self._closed:
                self._on_step(engine.advance())
        finally:
            self._settling = False
        return now

    def _arm(self) -> None:
        due = self.engine.due
        if due >= self._timer_at or self._closed:
            return  # a timer that fires too early arms the next one
        if self._timer is not None:
            self._timer.cancel()
        delay = (due - self.now) / self.speed
        self._timer_at = due
        self._timer = self._loop.call_later(max(0.0, delay + _TICK_S), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self._settle()
        self._arm()
