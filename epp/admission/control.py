"""Flow control: requests wait in bands and flows until the pool has room for them.

Values in, values out: whoever waits for a ticket is told by the caller of these methods. Every ticket leaves
exactly once, by dispatch, cancel, expire or shutdown. Single writer; `now` must never go back.

A drain goes through the bands from the highest down. For each request it asks the room how full the pool is
and the usage-limit policy how full it may be for each band; where a band may not send, no lower one is tried.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic

from epp.admission.band import Band
from epp.admission.displacement import victims
from epp.admission.eviction import Reclaim
from epp.admission.flow import Flow
from epp.admission.limits import Held
from epp.admission.queue import Queue
from epp.admission.registry import DEFAULT_FLOW, Registry
from epp.admission.retry import DrainRate, retry_after_s
from epp.admission.room import Room
from epp.admission.settings import FlowControlSettings
from epp.admission.ticket import Outcome, Ticket, W


@dataclass(frozen=True, slots=True)
class _Blocked:
    """Where the last drain was stopped by saturation."""

    saturation: float
    ceilings: Sequence[float]
    at: int
    """Index into the bands, highest first."""


class FlowControl(Generic[W]):
    def __init__(self, settings: FlowControlSettings, now: float) -> None:
        self._settings = settings
        self._tickets: OrderedDict[int, Ticket[W]] = OrderedDict()
        """All that wait, in order of arrival."""
        self._deadlines: Queue[float] = Queue(self._tickets)
        self._next_seq = 0
        self.reclaim = Reclaim(settings.eviction) if settings.eviction is not None else None
        """None where nothing that runs is aborted."""
        self._blocked: _Blocked | None = None
        self._rate = DrainRate(now)
        self._empty_since: float | None = None
        self._unplaced = 0
        self._unplaced_tokens = 0
        self.registry = Registry(settings.registry, self._tickets, now)
        self.held = Held(settings.limits)
        """What waits in all bands."""
        self.in_flight = 0
        """Dispatched and not finished."""
        self.saturation = 0.0
        """As the last drain left it."""
        self.closed = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._tickets)

    @property
    def pool_empty(self) -> bool:
        return self._empty_since is not None

    def refuses(self, priority: int, size_bytes: int) -> Outcome | None:
        """What `enqueue` would refuse such a request with now; None where it would take it."""
        return self._refusal(self.registry.band(priority), size_bytes)

    def enqueue(
        self,
        waiter: W,
        now: float,
        *,
        priority: int = 0,
        fairness_id: str = DEFAULT_FLOW,
        size_bytes: int = 0,
        input_tokens: int = 0,
        expected_output: int = 0,
        received_at: float | None = None,
        ttl_s: float | None = None,
        ttft_slo_s: float | None = None,
    ) -> Ticket[W] | Outcome:
        """The request waits from now on, or why it does not. `ttl_s` shortens the configured TTL."""
        registry = self.registry
        band = registry.band(priority)
        refused = self._refusal(band, size_bytes)
        if refused is not None:
            return refused
        flow = registry.flow(band, fairness_id)
        longest_s = self._settings.ttl_s
        own_ttl = ttl_s is not None and (longest_s is None or ttl_s <= longest_s)
        if not own_ttl:
            ttl_s = longest_s
        seq = self._next_seq
        self._next_seq = seq + 1
        ticket = Ticket(
            seq, waiter, flow, size_bytes, input_tokens, expected_output, now,
            now if received_at is None else received_at, inf if ttl_s is None else now + ttl_s, ttft_slo_s,
        )  # fmt: skip
        ticket.own_ttl = own_ttl
        self._tickets[seq] = ticket
        self.held.add(size_bytes)
        band.held.add(size_bytes)
        flow.push(band.order.order_key(ticket), ticket)
        self._time(ticket)
        if len(flow.queue) == 1:
            registry.busy(flow)
            band.fairness.arrive(flow)
        else:
            self._head_may_differ(band, flow, seq)
        band.shares.grew(flow)
        return ticket

    def victims(self, priority: int, fairness_id: str, size_bytes: int) -> list[Ticket[W]]:
        """Who could be sent away so that such a request, which `enqueue` would refuse, may wait."""
        return [] if self.closed else victims(self.registry, self.held, priority, fairness_id, size_bytes)

    def make_room(self, priority: int, fairness_id: str, size_bytes: int, now: float) -> list[Ticket[W]]:
        """Send the victims away, as if the queue had been full when they came."""
        victims = self.victims(priority, fairness_id, size_bytes)
        return [self._drop(ticket, Outcome.REJECTED_CAPACITY, now) for ticket in victims]

    def cancel(self, ticket: Ticket[W], now: float) -> bool:
        """The client went away. False if the ticket had left the queue before."""
        if ticket.outcome is not None:
            return False
        self._drop(ticket, Outcome.EVICTED_CONTEXT_CANCELLED, now)
        return True

    def pool_changed(self, *, empty: bool, now: float) -> None:
        """There are endpoints, or none. While there are none nothing is dispatched, and the time for which a
        request waits for one counts instead of its TTL; that begins anew when there is one."""
        if empty is self.pool_empty:
            return
        self._empty_since = now if empty else None
        if self._settings.no_endpoint_ttl_s is None or not self._tickets:
            return
        longest_s = self._settings.no_endpoint_ttl_s
        self._deadlines = Queue(self._tickets)
        for ticket in self._tickets.values():
            if not ticket.own_ttl:
                end_at = min(now + ticket.ttl_s, ticket.enqueued_at + max(ticket.ttl_s, longest_s))
                ticket.deadline_at = end_at
            self._time(ticket)

    def expire(self, now: float) -> list[Ticket[W]]:
        """Those that have waited too long. Also forgets idle flows and bands. Call it before `dispatch`."""
        gone: list[Ticket[W]] = []
        late = Outcome.EVICTED_TTL
        while (first := self._deadlines.first()) is not None and self._tickets[first[1]].deadline_at <= now:
            gone.append(self._drop(self._tickets[first[1]], late, now))
        while self._no_endpoint_deadline() <= now:
            gone.append(self._drop(next(iter(self._tickets.values())), Outcome.EVICTED_NO_ENDPOINTS, now))
        self.registry.forget_idle(now)
        return gone

    def next_expiry(self) -> float:
        """When `expire` has something to do; inf for never."""
        first = self._deadlines.first()
        by_ttl = inf if first is None else self._tickets[first[1]].deadline_at
        return min(by_ttl, self._no_endpoint_deadline())

    def dispatch(self, now: float, room: Room) -> list[Ticket[W]]:
        """As many as there is room for. Each of them ends with `finished`, whatever becomes of it."""
        self._blocked = None
        sent: list[Ticket[W]] = []
        if self._unplaced:
            room.take(self._unplaced, self._unplaced_tokens)
        while self._tickets and self._empty_since is None:
            band = self._band_to_serve(room)
            if band is None:
                break
            ticket = self._send(band, now)
            room.take(1, ticket.input_tokens)
            sent.append(ticket)
        self.saturation = room.saturation()
        self._rate.note(now, len(sent), backlog=bool(self._tickets))
        for band in self.registry.bands:
            band.rate.note(now, band.sent, backlog=bool(band.held.requests))
            band.sent = 0
        return sent

    def placed(self, ticket: Ticket[W]) -> None:
        """The ledger counts the request from now on. Until told, every drain counts it itself."""
        if not ticket.placed and not ticket.ended and ticket.outcome is Outcome.DISPATCHED:
            ticket.placed = True
            self._unplaced -= 1
            self._unplaced_tokens -= ticket.input_tokens

    def generated(self, ticket: Ticket[W], output_tokens: int) -> None:
        """So many output tokens have come back in all. Optional: what was not told counts at the end."""
        more = output_tokens - ticket.charged_output
        if more > 0 and ticket.outcome is Outcome.DISPATCHED and not ticket.ended:
            ticket.charged_output = output_tokens
            self.registry.band_of(ticket.flow).fairness.serve(ticket.flow, 0, more)

    def finished(
        self,
        ticket: Ticket[W],
        now: float,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
    ) -> None:
        """A dispatched request is over. Tokens as the engine counted them; None as they were estimated, 0 for
        one that no engine took. Safe to call again."""
        if ticket.ended or ticket.outcome is not Outcome.DISPATCHED:
            return
        self.placed(ticket)
        ticket.ended = True
        flow, band = ticket.flow, self.registry.band_of(ticket.flow)
        took = ticket.input_tokens if input_tokens is None else input_tokens
        gave = ticket.charged_output if output_tokens is None else output_tokens
        band.fairness.serve(flow, took - ticket.input_tokens, gave - ticket.charged_output)
        band.fairness.complete(flow, took, gave, now)
        flow.in_flight -= 1
        band.in_flight -= 1
        self.in_flight -= 1
        if self.reclaim is not None:
            self.reclaim.ended(ticket, now)
        self.registry.rest(flow, now)

    def evict(self, now: float) -> Sequence[Ticket[W]]:
        """Running requests to abort, for the highest band that the last drain left waiting because the pool
        is full. Ask after each `dispatch`; each of them still ends with `finished`."""
        blocked, reclaim = self._blocked, self.reclaim
        if blocked is None or reclaim is None or not reclaim.ready(now):
            return ()
        victim = reclaim.victim_priority()
        if victim is None:
            return ()
        bands = self.registry.bands
        for band, ceiling in list(zip(bands, blocked.ceilings, strict=False))[blocked.at :]:
            if band.priority <= victim:
                break
            # Nothing opens a band whose ceiling is 0.
            if band.held.requests and 0.0 < ceiling <= blocked.saturation:
                return reclaim.choose(
                    now,
                    priority=band.priority,
                    saturation=blocked.saturation,
                    ceiling=ceiling,
                    in_flight=self.in_flight,
                )
        return ()

    def shutdown(self, now: float) -> list[Ticket[W]]:
        """Takes no more requests and gives back all that wait."""
        self.closed = True
        return [self._drop(ticket, Outcome.EVICTED_OTHER, now) for ticket in list(self._tickets.values())]

    def retry_after_s(self, priority: int, chance: float) -> int:
        """When a refused request of this priority should come back; `chance` in [0, 1). The later of: what
        waits in its band and above, as fast as all drain; what waits in its band, as fast as that drains."""
        own = self.registry.band(priority)
        ahead = sum(band.held.requests for band in self.registry.bands if band.priority >= own.priority)
        in_all = retry_after_s(ahead, self._rate.per_second(), chance)
        rate = own.rate.per_second()
        return in_all if rate is None else max(in_all, retry_after_s(own.held.requests, rate, chance))

    def _refusal(self, band: Band, size_bytes: int) -> Outcome | None:
        if self.closed:
            return Outcome.REJECTED_OTHER
        if self.held.fits(size_bytes) and band.held.fits(size_bytes):
            return None
        return Outcome.REJECTED_CAPACITY if self._empty_since is None else Outcome.REJECTED_NO_ENDPOINTS

    def _band_to_serve(self, room: Room) -> Band | None:
        registry = self.registry
        saturation = room.saturation()
        ceilings = self._settings.usage.ceilings(saturation, registry.priorities)
        for i, band in enumerate(registry.bands):
            if saturation >= ceilings[i]:
                self._blocked = _Blocked(saturation, ceilings, i)
                return None
            if band.held.requests:
                return band
        return None

    def _send(self, band: Band, now: float) -> Ticket[W]:
        fairness = band.fairness
        flow = fairness.pick()
        first = flow.queue.first()
        assert first is not None
        ticket = self._tickets[first[1]]
        self._leave(ticket, band, Outcome.DISPATCHED, now)
        flow.in_flight += 1
        band.in_flight += 1
        band.sent += 1
        self.in_flight += 1
        self._unplaced += 1
        self._unplaced_tokens += ticket.input_tokens
        ticket.charged_output = ticket.expected_output
        fairness.serve(flow, ticket.input_tokens, ticket.expected_output)
        if len(flow.queue):
            fairness.advance(flow)
        else:
            fairness.leave(flow)
        if self.reclaim is not None:
            self.reclaim.sent(ticket)
        return ticket

    def _drop(self, ticket: Ticket[W], outcome: Outcome, now: float) -> Ticket[W]:
        """It leaves without being sent."""
        flow, band = ticket.flow, self.registry.band_of(ticket.flow)
        first = flow.queue.first()
        at_head = first is not None and first[1] == ticket.seq
        self._leave(ticket, band, outcome, now)
        if not len(flow.queue):
            band.fairness.leave(flow)
            self.registry.rest(flow, now)
        elif at_head:
            band.fairness.advance(flow)
        return ticket

    def _leave(self, ticket: Ticket[W], band: Band, outcome: Outcome, now: float) -> None:
        assert ticket.outcome is None
        ticket.outcome = outcome
        ticket.left_at = now
        del self._tickets[ticket.seq]
        ticket.flow.gone(ticket)
        if ticket.deadline_at < inf:
            self._deadlines.gone()
        band.held.remove(ticket.size_bytes)
        self.held.remove(ticket.size_bytes)

    def _head_may_differ(self, band: Band, flow: Flow, seq: int) -> None:
        first = flow.queue.first()
        if first is not None and first[1] == seq:
            band.fairness.advance(flow)

    def _time(self, ticket: Ticket[W]) -> None:
        """From now on its TTL counts, if that is what counts."""
        if (
            self._empty_since is not None
            and self._settings.no_endpoint_ttl_s is not None
            and not ticket.own_ttl
        ):
            ticket.deadline_at = inf
        if ticket.deadline_at < inf:
            self._deadlines.push(ticket.deadline_at, ticket.seq)

    def _no_endpoint_deadline(self) -> float:
        """Of the request that came first; counted from when it had come and there was no endpoint."""
        ttl_s = self._settings.no_endpoint_ttl_s
        if self._empty_since is None or ttl_s is None or not self._tickets:
            return inf
        first = next(iter(self._tickets.values()))
        return max(first.enqueued_at, self._empty_since) + ttl_s
