"""First tokens that nobody will tell us of: applied late, but before anyone reads the ledger.

A heap by the time when each is due. What has ended before stays in it until then, or until such make up most
of it.
"""

from __future__ import annotations

import heapq

from msgspec import Struct

from epp.datalayer.inflight import Entry
from epp.datalayer.observation.timings import Cell

_STALE_MIN = 1024
_PATIENCE = 1.0
"""Times the estimate that a first token may come later than it, where the engine's counts would tell."""


class Watch(Struct, eq=False):
    """One request whose answer the gateway need not or does not show. Made by Observation.watch."""

    cell: Cell
    entry: Entry
    wanted: str
    """Why it should be looked at."""
    observe: bool
    """The plan: the gateway is to show the answer."""
    streamed: bool
    """The client asked for a streamed answer."""
    tokens: float
    """To be prefilled there when it was sent, its own included."""
    sent_at: float
    expected_output: int
    trial: bool = False
    """Unobserved to find out whether the gateway obeys."""
    begun: bool = False
    """The answer's headers have come."""
    overdue: bool = False
    """The first token was due before the headers came."""
    patient: bool = False
    """The engine's counts will tell its first token: they are waited for beyond the time that is due."""
    queued: bool = False
    over: bool = False
    settled: bool = False
    """Its first token came, or it is over."""

    def first_token(self) -> None:
        """It came, as far as we know."""
        self.settled = True
        self.entry.first_token()


class DueTokens:
    """Single writer, the event loop. `heap` may be looked at to see whether there is anything to apply."""

    __slots__ = ("_number", "_stale", "heads_come", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Watch]] = []
        self._number = 0
        self._stale = 0
        """Watches in the heap whose request is over."""
        self.heads_come = False
        """Answers' headers are shown to us. The headers of a streamed answer come before its first token."""

    def put(self, watch: Watch, due_at: float) -> None:
        self._number += 1
        watch.queued = True
        heapq.heappush(self.heap, (due_at, self._number, watch))

    def settle(self, now: float) -> None:
        """Apply what is due by now."""
        heap = self.heap
        while heap and heap[0][0] <= now:
            due_at, _, watch = heapq.heappop(heap)
            watch.queued = False
            if watch.settled:
                self._stale -= watch.over
            elif watch.patient:
                watch.patient = False
                self.put(watch, due_at + _PATIENCE * (due_at - watch.sent_at))
            elif watch.begun or not watch.streamed or not self.heads_come:
                watch.first_token()
            else:
                watch.overdue = True

    def begun(self, watch: Watch, streamed: bool) -> None:
        """The answer's headers have come; those of one that is not streamed when it is complete."""
        self.heads_come = True
        watch.begun = True
        if watch.overdue or not streamed:
            watch.first_token()

    def ended(self, watch: Watch) -> None:
        watch.settled = watch.over = True
        if watch.queued:
            self._stale += 1
            if self._stale > _STALE_MIN and 2 * self._stale > len(self.heap):
                self._clear_out()

    def _clear_out(self) -> None:
        kept = []
        for item in self.heap:
            if item[2].settled:
                item[2].queued = False
            else:
                kept.append(item)
        heapq.heapify(kept)
        self.heap[:] = kept
        self._stale = 0
