"""Who waits for room: flow control as the event loop drives it.

Every event that may make room or end a wait (an arrival, a finished request, a new snapshot, a deadline)
leads to one run over the queues: late ones are refused, as many as fit are sent, and where more important
ones still wait, sheddable running ones are aborted. Several events lead to one run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from epp.admission.control import FlowControl
from epp.admission.refusals import evicted, refusal
from epp.admission.saturation import room_of
from epp.admission.stages import StagedDetector
from epp.admission.ticket import Outcome, Ticket
from epp.domain.errors import Answer, Refused
from epp.domain.request import Request
from epp.domain.views import Clock, InflightView, SnapshotSource, Verdict
from epp.telemetry.flow import QueueMeter

log = logging.getLogger("epp.queues")

_RETRY_S: Final = 0.1
"""While something waits for an abort to take effect, it is looked at again after so long."""


class Waiting(Protocol):
    """One request in a queue."""

    def go(self) -> Verdict:
        """There is room: choose an endpoint now. An Answer, where that fails."""

    def refuse(self, refused: Refused) -> Answer: ...

    def abort(self, refused: Refused) -> None:
        """It runs, and is to end."""


class Place:
    """What becomes of one waiting request."""

    __slots__ = ("enqueue_s", "future", "meter", "request", "verdict", "waiting")

    def __init__(self, waiting: Waiting, request: Request) -> None:
        self.waiting = waiting
        self.request = request
        self.enqueue_s = 0.0
        """What it took to enqueue it."""
        self.meter: QueueMeter | None = None
        """Where it is counted as waiting."""
        self.verdict: Verdict | None = None
        self.future: asyncio.Future[Verdict] | None = None

    def tell(self, verdict: Verdict) -> None:
        self.verdict = verdict
        if self.future is not None and not self.future.done():
            self.future.set_result(verdict)


Entry: TypeAlias = Ticket[Place]


def _unheard(
    outcome: Outcome, priority: int, fairness_id: str, request: Request | None, seconds: float
) -> None:
    pass


class Queues:
    """Called by the one event loop alone."""

    def __init__(
        self,
        control: FlowControl[Place],
        detector: StagedDetector,
        *,
        store: SnapshotSource,
        inflight: InflightView,
        clock: Clock,
        chance: Callable[[], float],
    ) -> None:
        """`chance` in [0, 1) spreads Retry-After."""
        self.control = control
        self.detector = detector
        self._store = store
        self._inflight = inflight
        self._clock = clock
        self._chance = chance
        self._asked = False
        """A run is on its way."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.on_waiting: Callable[[bool], None] = lambda waiting: None
        """Told when something begins to wait for others to end, and when nothing does any more."""
        self._told_waiting = False
        self.on_waits: Callable[[Entry], None] = lambda ticket: None
        """Told of every ticket for which there is no room at once."""
        self.on_left: Callable[[Entry], None] = lambda ticket: None
        """Told of every ticket that has left the queue."""
        self.on_refused: Callable[[Outcome, int, str, Request | None, float], None] = _unheard
        """Told of requests that were not let in: priority, fairness id, the request if its body was read, and
        the seconds that it took."""
        self.on_evicted: Callable[[Sequence[Entry], float], None] = lambda tickets, now: None
        """Told of tickets whose running requests are aborted now."""
        self.on_over: Callable[[Entry, float], None] = lambda ticket, now: None
        """Told when such a request has ended."""
        self.on_run: Callable[[float], None] = lambda seconds: None

    def enter(
        self,
        waiting: Waiting,
        request: Request,
        *,
        ttl_s: float | None = None,
        ttft_slo_s: float | None = None,
        expected_output: int = 0,
    ) -> tuple[Entry | None, Verdict | asyncio.Future[Verdict]]:
        """The request's ticket (None where it was not let in) and its verdict, now or later."""
        control, now = self.control, self._clock()
        place = Place(waiting, request)
        ticket: Entry | Outcome | None = None
        for attempt in (0, 1):
            ticket = control.enqueue(
                place, now, priority=request.priority, fairness_id=request.fairness_id,
                size_bytes=request.size_bytes, input_tokens=request.input_tokens,
                expected_output=expected_output, received_at=request.head.received_at, ttl_s=ttl_s,
                ttft_slo_s=ttft_slo_s,
            )  # fmt: skip
            if not isinstance(ticket, Outcome) or attempt:
                break
            displaced = control.make_room(request.priority, request.fairness_id, request.size_bytes, now)
            if not displaced:
                break
            for other in displaced:
                self._turn_away(other)
        enqueue_s = self._clock() - now
        if isinstance(ticket, Outcome):
            self.on_refused(ticket, request.priority, request.fairness_id, request, enqueue_s)
            return None, waiting.refuse(self._refused(ticket, request.priority))
        assert ticket is not None
        place.enqueue_s = enqueue_s
        self.run()
        if place.verdict is not None:
            return ticket, place.verdict
        self.on_waits(ticket)
        place.future = asyncio.get_running_loop().create_future()
        return ticket, place.future

    def early(self, priority: int, fairness_id: str, size_bytes: int) -> Refused | None:
        """At the headers: what such a request will be refused with for certain."""
        control = self.control
        outcome = control.refuses(priority, size_bytes)
        if outcome is None or control.victims(priority, fairness_id, size_bytes):
            return None
        self.on_refused(outcome, priority, fairness_id, None, 0.0)
        return self._refused(outcome, priority)

    def ended(self, ticket: Entry, *, input_tokens: int | None, output_tokens: int | None) -> None:
        """The request is over, wherever it was."""
        control, now = self.control, self._clock()
        if control.cancel(ticket, now):
            self.on_left(ticket)
        else:
            control.finished(ticket, now, input_tokens=input_tokens, output_tokens=output_tokens)
            if ticket.revoked:
                self.on_over(ticket, now)
        if len(control):
            self.wake()
        elif self._told_waiting:
            self._set_timer()

    def changed(self) -> None:
        """There is a new snapshot."""
        if len(self.control):
            self.wake()

    def provision(self, priorities: frozenset[int]) -> None:
        """The priorities that requests can have."""
        self.control.registry.provision(priorities, self._clock())

    def wake(self) -> None:
        """A run soon, one for all that ask."""
        if not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_soon(self._woken)

    def shutdown(self) -> int:
        """Everybody who waits is told that we go. How many they were."""
        left = self.control.shutdown(self._clock())
        for ticket in left:
            self._turn_away(ticket)
        self._set_timer()
        return len(left)

    def _woken(self) -> None:
        self._asked = False
        self.run()

    def run(self) -> None:
        control, now = self.control, self._clock()
        snapshot = self._store.snapshot
        control.pool_changed(empty=not len(snapshot), now=now)
        for ticket in control.expire(now):
            self._turn_away(ticket)
        if len(control):
            room = room_of(self.detector, snapshot, snapshot.every, self._inflight, now)
            for ticket in control.dispatch(now, room):
                self._send(ticket)
            if victims := control.evict(now):
                self.on_evicted(victims, now)
            for ticket in victims:
                refused = evicted(self._retry_after_s(ticket.priority))
                ticket.waiter.waiting.abort(refused)
            self.on_run(self._clock() - now)
        self._set_timer()

    def _send(self, ticket: Entry) -> None:
        place = ticket.waiter
        self.on_left(ticket)
        verdict = place.waiting.go()
        if isinstance(verdict, Answer):
            # No engine took it.
            self.control.finished(ticket, self._clock(), input_tokens=0, output_tokens=0)
        else:
            self.control.placed(ticket)
        place.tell(verdict)

    def _turn_away(self, ticket: Entry) -> None:
        outcome = ticket.outcome
        assert outcome is not None
        self.on_left(ticket)
        place = ticket.waiter
        place.tell(place.waiting.refuse(self._refused(outcome, ticket.priority)))

    def _refused(self, outcome: Outcome, priority: int) -> Refused:
        control = self.control
        return refusal(
            outcome,
            pool_empty=control.pool_empty,
            closed=control.closed,
            retry_after_s=self._retry_after_s(priority),
        )

    def _retry_after_s(self, priority: int) -> int:
        return self.control.retry_after_s(priority, self._chance())

    def _set_timer(self) -> None:
        control = self.control
        waits = bool(len(control))
        if waits is not self._told_waiting:
            self._told_waiting = waits
            self.on_waiting(waits)
        at = control.next_expiry()
        if waits and control.reclaim is not None:
            at = min(at, self._clock() + _RETRY_S)
        if self._timer is not None:
            if at == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if at < float("inf"):
            self._timer_at = at
            delay = max(0.0, at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self.run()
