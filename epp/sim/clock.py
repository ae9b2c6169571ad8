"""Engines in virtual time: one heap of events, no sockets, as fast as the machine allows.

At one instant, steps end before requests arrive, and what was scheduled first comes first; epp.sim.realtime
keeps the same order.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from epp.sim.engine import Engine
from epp.sim.sequence import Rejected, Work
from epp.sim.sequence import Sequence as Running
from epp.sim.step import Step

StepSeen = Callable[[int, Step], None]
"""Index of the engine, and what its step did."""

_STEP, _CALL = 0, 1


class VirtualTime:
    """Drives engines; time stands still while a callback runs."""

    def __init__(
        self, engines: Sequence[Engine], on_step: StepSeen | None = None, *, now: float = 0.0
    ) -> None:
        self.engines = engines
        self.now = now
        self._on_step = on_step
        self._heap: list[tuple[float, int, int, Callable[[], None] | None]] = []
        self._queued = [math.inf] * len(engines)
        """When each engine's earliest entry in the heap comes up."""
        self._calls = 0

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Calls back at an instant, not before now."""
        self._calls += 1
        heapq.heappush(self._heap, (max(when, self.now), _CALL, self._calls, call))

    def add(self, index: int, work: Work) -> Running:
        """Sends a request to an engine now. Raises Rejected."""
        seq = self.engines[index].add(work, self.now)
        self._queue(index)
        return seq

    def abort(self, index: int, seq: Running) -> None:
        self.engines[index].abort(seq, self.now)
        self._queue(index)

    def run(self, until: float = math.inf) -> None:
        """Until nothing is left to happen, or to the instant `until`, what happens at it included."""
        heap = self._heap
        pop = heapq.heappop
        engines, queued, on_step = self.engines, self._queued, self._on_step
        while heap and heap[0][0] <= until:
            when, kind, index, call = pop(heap)
            if kind == _CALL:
                assert call is not None
                self.now = when
                call()
                continue
            engine = engines[index]
            if queued[index] == when:
                queued[index] = math.inf
            if engine.due == when:
                self.now = when
                step = engine.advance()
                if on_step is not None:
                    on_step(index, step)
            self._queue(index)
        if until < math.inf:
            self.now = max(self.now, until)

    def _queue(self, index: int) -> None:
        due = self.engines[index].due
        if due < self._queued[index]:
            self._queued[index] = due
            heapq.heappush(self._heap, (due, _STEP, index, None))


@dataclass(frozen=True, slots=True)
class Served:
    """What became of one request of a simulation."""

    work: Work
    arrived_at: float
    engine: int
    """Index of the engine it was sent to."""
    sequence: Running | None
    """Times and counts; None when the engine refused it."""
    refused: Rejected | None = None


Route = Callable[[float, Work], int]
"""Now and the request; returns the index of an engine."""


def simulate(
    engines: Sequence[Engine],
    arrivals: Iterable[tuple[float, Work]],
    route: Route,
    *,
    on_step: StepSeen | None = None,
    until: float = math.inf,
) -> list[Served]:
    """Plays arrivals (in order of time) over engines to their end; a list in order of arrival.

    `route` may look at the engines and keep state of its own; `on_step` sees every step, so that a policy
    can follow first tokens and ends.
    """
    clock = VirtualTime(engines, on_step)
    served: list[Served] = []
    feed = iter(arrivals)

    def arrive(at: float, work: Work) -> None:
        index = route(at, work)
        try:
            served.append(Served(work, at, index, clock.add(index, work)))
        except Rejected as refused:
            served.append(Served(work, at, index, None, refused))
        following()

    def following() -> None:
        coming = next(feed, None)
        if coming is not None:
            clock.at(coming[0], lambda: arrive(*coming))

    following()
    clock.run(until)
    return served
