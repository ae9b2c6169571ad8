"""Flow control in any interleaving of what can happen to it, against a plain model.

No request is lost and none answered twice; limits hold; bands go by priority and flows by their order; and
each fairness policy keeps its bound. For the virtual token counter that is the bound of its module, with M
measured: the most output that requests in flight at one time could still add or take back.
"""

from __future__ import annotations

from itertools import permutations
from math import inf
from typing import TypeAlias

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from epp.admission.attained import AttainedService, AttainedServiceParameters
from epp.admission.band import BandSettings
from epp.admission.control import FlowControl
from epp.admission.eviction import EvictionSettings
from epp.admission.fairness import FairnessPolicy
from epp.admission.flow import Flow
from epp.admission.limits import Limits
from epp.admission.order import EarliestDeadline, FirstCome, OrderingPolicy, SloDeadline
from epp.admission.registry import DEFAULT_FLOW, RegistrySettings
from epp.admission.room import Slots
from epp.admission.settings import FlowControlSettings
from epp.admission.ticket import Outcome, Ticket
from epp.admission.vtc import TokenCounterParameters, VirtualTokenCounter
from tests.unit.admission.flows import NOTHING, strict, turns

INPUT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0
WEIGHTS = {"a": 2.0, "b": 0.5}
MAX_IDS = 2
PRIORITIES = (10, 0, -5)
FAIRNESS = ("strict", "turns", "counter", "attained")
ORDERS: tuple[OrderingPolicy, ...] = (FirstCome(NOTHING), EarliestDeadline(NOTHING), SloDeadline(NOTHING))


Arrival: TypeAlias = tuple[str, int, int, int, int, float | None, float | None]
ARRIVALS: st.SearchStrategy[Arrival] = st.tuples(
    st.sampled_from(["a", "b", "c", "d", "e"]),
    st.sampled_from([0, 0, *PRIORITIES, 77]),
    st.integers(0, 30),
    st.integers(0, 50),
    st.integers(0, 60),
    st.sampled_from([None, None, None, 1.0, 2.5, inf]),
    st.sampled_from([None, 0.1, 2.0]),
)
"""Flow, priority, bytes, prompt tokens, tokens that it will generate, TTL, wanted time to first token."""


def policy(name: str) -> FairnessPolicy:
    if name == "counter":
        return VirtualTokenCounter(TokenCounterParameters(weights=WEIGHTS))
    if name == "attained":
        return AttainedService(AttainedServiceParameters())
    return strict() if name == "strict" else turns()


class Interleavings(RuleBasedStateMachine):
    @initialize(
        fairness=st.sampled_from(FAIRNESS),
        order=st.sampled_from(ORDERS),
        band_requests=st.sampled_from([3, 20, None, None]),
        band_bytes=st.sampled_from([100, None, None]),
        requests=st.sampled_from([6, 30, None, None]),
        ttl_s=st.sampled_from([None, 5.0]),
        no_endpoint_ttl_s=st.sampled_from([None, 3.0]),
        evict=st.booleans(),
        prepay=st.booleans(),
    )
    def build(
        self,
        fairness: str,
        order: OrderingPolicy,
        band_requests: int | None,
        band_bytes: int | None,
        requests: int | None,
        ttl_s: float | None,
        no_endpoint_ttl_s: float | None,
        evict: bool,
        prepay: bool,
    ) -> None:
        self.fairness, self.order, self.prepay = fairness, order, prepay
        self.no_endpoint_ttl_s = no_endpoint_ttl_s
        self.now = 100.0
        shared = policy(fairness)
        rows = RegistrySettings(
            default=BandSettings(Limits(band_requests, band_bytes), shared, order),
            max_fairness_ids=MAX_IDS,
            known_ids=frozenset(WEIGHTS),
            flow_idle_s=4.0,
            band_idle_s=8.0,
        )
        self.control: FlowControl[int] = FlowControl(
            FlowControlSettings(
                limits=Limits(max_requests=requests),
                ttl_s=ttl_s,
                no_endpoint_ttl_s=no_endpoint_ttl_s,
                eviction=EvictionSettings() if evict else None,
                registry=rows,
            ),
            self.now,
        )
        self.control.registry.provision(PRIORITIES, self.now)
        self.waiting: list[Ticket[int]] = []
        self.running: list[Ticket[int]] = []
        self.ended: list[Ticket[int]] = []
        self.outcomes: dict[int, Outcome] = {}
        self.taken = 0
        self.output: dict[int, int] = {}
        """What each request will generate."""
        self.empty_since: float | None = None
        self.since: dict[tuple[Flow, Flow], int] = {}
        """For ordered pairs of flows: turns of the second since the first last went or came."""
        self.service: dict[Flow, float] = {}
        self.both_wait: dict[tuple[Flow, Flow], float] = {}
        """For pairs of flows that wait: how far apart their service was when that began."""
        self.longest_input = 0.0
        self.most_owed = 0.0
        self.refunded = False

    @rule(burst=st.lists(ARRIVALS, min_size=1, max_size=10))
    def arrive(self, burst: list[Arrival]) -> None:
        for arrival in burst:
            self.enqueue(*arrival)

    @rule(arrival=ARRIVALS)
    def take_a_place(self, arrival: Arrival) -> None:
        """Where it would be refused, others may have to leave; then it fits."""
        flow, priority, size = arrival[:3]
        refused = self.control.refuses(priority, size)
        named = self.control.victims(priority, flow, size)
        gone = self.control.make_room(priority, flow, size, self.now)
        assert gone == named
        if not gone:
            return
        assert refused is not None
        own = self.control.registry.band(priority)
        (source,) = {ticket.flow for ticket in gone}
        assert source.priority <= own.priority
        there = [ticket.seq for ticket in self.waiting if ticket.flow is source]
        assert sorted(ticket.seq for ticket in gone) == sorted(there)[-len(gone) :]
        for ticket in gone:
            self.left(ticket, Outcome.REJECTED_CAPACITY)
        if source.priority == own.priority:
            held = sum(ticket.flow is source for ticket in self.waiting)
            assert held >= 1
            assert source.fairness_id != flow
        assert self.control.refuses(priority, size) is None
        self.enqueue(*arrival)

    @rule(arrival=ARRIVALS, others=st.sampled_from(["a", "b", "c"]), count=st.integers(4, 15))
    def two_flood(self, arrival: Arrival, others: str, count: int) -> None:
        for _ in range(count):
            self.enqueue(*arrival)
            self.enqueue(others, *arrival[1:])

    def enqueue(
        self,
        flow: str,
        priority: int,
        size: int,
        tokens: int,
        output: int,
        ttl_s: float | None,
        slo_s: float | None,
    ) -> None:
        expected = self.control.refuses(priority, size)
        got = self.control.enqueue(
            self.taken, self.now, priority=priority, fairness_id=flow, size_bytes=size, input_tokens=tokens,
            expected_output=20 if self.prepay else 0, ttl_s=ttl_s, ttft_slo_s=slo_s,
        )  # fmt: skip
        if not isinstance(got, Ticket):
            assert got is expected
            self.check_refusal(got, priority, size)
            return
        assert expected is None
        assert got.priority == (priority if priority in PRIORITIES else 0)
        assert got.flow.fairness_id in (flow, DEFAULT_FLOW)
        assert flow not in WEIGHTS or got.flow.fairness_id == flow
        self.taken += 1
        self.output[got.seq] = output
        self.longest_input = max(self.longest_input, INPUT_WEIGHT * tokens)
        if all(other.flow is not got.flow for other in self.waiting):
            for other in {t.flow for t in self.waiting if t.priority == got.priority}:
                self.since[got.flow, other] = self.since[other, got.flow] = 0
                self.both_wait[got.flow, other] = self.gap(got.flow, other)
        self.waiting.append(got)

    def check_refusal(self, outcome: Outcome, priority: int, size: int) -> None:
        if self.control.closed:
            assert outcome is Outcome.REJECTED_OTHER
            return
        empty = self.empty_since is not None
        assert outcome is (Outcome.REJECTED_NO_ENDPOINTS if empty else Outcome.REJECTED_CAPACITY)
        band = self.control.registry.band(priority)
        there = [ticket for ticket in self.waiting if ticket.priority == band.priority]
        limits, total = band.held.limits, self.control.held.limits.max_requests
        assert (
            (limits.max_requests is not None and len(there) + 1 > limits.max_requests)
            or (limits.max_bytes is not None and sum(t.size_bytes for t in there) + size > limits.max_bytes)
            or (total is not None and len(self.waiting) + 1 > total)
        )

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 4.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        known = self.waiting + self.running + self.ended
        if known:
            ticket = data.draw(st.sampled_from(known))
            if self.control.cancel(ticket, self.now):
                self.left(ticket, Outcome.EVICTED_CONTEXT_CANCELLED)
            else:
                assert ticket not in self.waiting

    @rule()
    def expire(self) -> None:
        late = {t.seq for t in self.waiting if t.deadline_at <= self.now}
        ttl_s = self.no_endpoint_ttl_s
        homeless = set[int]()
        if ttl_s is not None and self.empty_since is not None:
            since = self.empty_since
            homeless = {t.seq for t in self.waiting if max(t.enqueued_at, since) + ttl_s <= self.now} - late
        due = self.control.next_expiry() <= self.now
        gone = self.control.expire(self.now)
        assert due == bool(gone)
        assert {t.seq for t in gone if t.outcome is Outcome.EVICTED_TTL} == late
        assert {t.seq for t in gone if t.outcome is Outcome.EVICTED_NO_ENDPOINTS} == homeless
        for ticket in gone:
            assert ticket.outcome is not None
            self.left(ticket, ticket.outcome)
        assert self.control.next_expiry() > self.now

    @rule(empty=st.sampled_from([False, False, False, True]))
    def change_pool(self, empty: bool) -> None:
        self.control.pool_changed(empty=empty, now=self.now)
        if not empty:
            self.empty_since = None
        elif self.empty_since is None:
            self.empty_since = self.now

    @rule(turns=st.integers(1, 12))
    def dispatch_one_by_one(self, turns: int) -> None:
        for _ in range(turns):
            unplaced = sum(not ticket.placed for ticket in self.running)
            sent = self.control.dispatch(self.now, Slots(1 + unplaced))
            assert len(sent) == (1 if self.waiting and self.empty_since is None else 0)
            for ticket in sent:
                self.check_order(ticket)
                self.sent(ticket)

    @rule(turns=st.integers(5, 25), at_once=st.integers(1, 4))
    def work(self, turns: int, at_once: int) -> None:
        """The pool is busy for a while: so many run at a time, and the oldest ends first."""
        for _ in range(turns):
            self.dispatch_one_by_one(1)
            while len(self.running) > at_once:
                self.end(self.running[0], failed=False)

    @rule(slots=st.integers(0, 8))
    def drain(self, slots: int) -> None:
        unplaced = sum(not ticket.placed for ticket in self.running)
        sent = self.control.dispatch(self.now, Slots(slots))
        room = 0 if self.empty_since is not None else max(0, slots - unplaced)
        assert len(sent) == min(room, len(self.waiting))
        assert [t.priority for t in sent] == sorted((t.priority for t in sent), reverse=True)
        for ticket in sent:
            self.sent(ticket)
        for ticket in self.control.evict(self.now):
            assert ticket in self.running
            assert ticket.revoked
            assert ticket.priority < 0
            assert any(other.priority > ticket.priority for other in self.waiting)

    def check_order(self, ticket: Ticket[int]) -> None:
        """It had the right to go before all others that wait."""
        band = [other for other in self.waiting if other.priority == ticket.priority]
        assert ticket.priority == max(other.priority for other in self.waiting)

        def key(one: Ticket[int]) -> tuple[float, int]:
            return self.order.order_key(one), one.seq

        rivals = band if self.fairness == "strict" else [t for t in band if t.flow is ticket.flow]
        assert key(ticket) == min(key(other) for other in rivals)
        if self.fairness == "counter":
            assert ticket.flow.counter - self.cost(ticket) <= min(t.flow.counter for t in band) + 1e-6

    def cost(self, ticket: Ticket[int]) -> float:
        """What its dispatch has charged."""
        tokens = INPUT_WEIGHT * ticket.input_tokens + OUTPUT_WEIGHT * ticket.expected_output
        return tokens / WEIGHTS.get(ticket.flow.fairness_id, 1.0)

    def sent(self, ticket: Ticket[int]) -> None:
        assert ticket.outcome is Outcome.DISPATCHED
        self.charge(ticket, ticket.input_tokens, ticket.expected_output)
        for pair in self.since:
            if pair[0] is ticket.flow:
                self.since[pair] = 0
            elif pair[1] is ticket.flow:
                self.since[pair] += 1
        self.left(ticket, Outcome.DISPATCHED)
        self.running.append(ticket)
        owed = sum(
            OUTPUT_WEIGHT * max(t.expected_output, self.output[t.seq])
            + (INPUT_WEIGHT * t.input_tokens if self.refunded else 0.0)
            for t in self.running
        )
        self.most_owed = max(self.most_owed, owed)

    def left(self, ticket: Ticket[int], outcome: Outcome) -> None:
        assert ticket.seq not in self.outcomes, "answered twice"
        assert ticket.outcome is outcome
        assert ticket.left_at == self.now
        self.outcomes[ticket.seq] = outcome
        self.waiting.remove(ticket)
        if all(other.flow is not ticket.flow for other in self.waiting):
            for pairs in (self.since, self.both_wait):
                for pair in [pair for pair in pairs if ticket.flow in pair]:
                    del pairs[pair]

    def charge(self, ticket: Ticket[int], tokens: int, output: int) -> None:
        cost = INPUT_WEIGHT * tokens + OUTPUT_WEIGHT * output
        self.service[ticket.flow] = self.service.get(ticket.flow, 0.0) + cost / WEIGHTS.get(
            ticket.flow.fairness_id, 1.0
        )

    def gap(self, one: Flow, other: Flow) -> float:
        return self.service.get(one, 0.0) - self.service.get(other, 0.0)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def place(self, data: st.DataObject) -> None:
        self.control.placed(data.draw(st.sampled_from(self.running)))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), more=st.integers(0, 40))
    def generate(self, data: st.DataObject, more: int) -> None:
        ticket = data.draw(st.sampled_from(self.running))
        before = ticket.charged_output
        self.control.generated(ticket, min(self.output[ticket.seq], before + more))
        self.charge(ticket, 0, ticket.charged_output - before)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), failed=st.sampled_from([False, False, False, True]))
    def finish(self, data: st.DataObject, failed: bool) -> None:
        self.end(data.draw(st.sampled_from(self.running)), failed=failed)

    def end(self, ticket: Ticket[int], *, failed: bool) -> None:
        gave = 0 if failed else self.output[ticket.seq]
        took = 0 if failed else ticket.input_tokens
        if failed and not self.refunded:
            # From now on prompts count as owed too.
            self.refunded = True
            self.most_owed += sum(INPUT_WEIGHT * t.input_tokens for t in self.running)
        self.charge(ticket, took - ticket.input_tokens, gave - ticket.charged_output)
        self.running.remove(ticket)
        self.ended.append(ticket)
        for _ in range(2):
            self.control.finished(ticket, self.now, input_tokens=took, output_tokens=gave)

    @rule(kept=st.sets(st.sampled_from(PRIORITIES)))
    def provision(self, kept: set[int]) -> None:
        """Objectives go and come back; what waits in their bands stays."""
        self.control.registry.provision(kept, self.now)
        self.control.registry.provision(PRIORITIES, self.now)

    @precondition(lambda self: self.taken > 100)
    @rule()
    def shutdown(self) -> None:
        self.close()

    def close(self) -> None:
        waiting = {ticket.seq for ticket in self.waiting}
        gone = self.control.shutdown(self.now)
        assert {ticket.seq for ticket in gone} == waiting
        for ticket in gone:
            self.left(ticket, Outcome.EVICTED_OTHER)
        assert not self.waiting

    @invariant()
    def adds_up(self) -> None:
        control = self.control
        assert len(control) == len(self.waiting) == control.held.requests
        assert len(self.outcomes) + len(self.waiting) == self.taken
        assert control.held.bytes == sum(ticket.size_bytes for ticket in self.waiting)
        assert control.in_flight == len(self.running)
        for held in (control.held, *(band.held for band in control.registry.bands)):
            limits = held.limits
            assert limits.max_requests is None or held.requests <= limits.max_requests
            assert limits.max_bytes is None or held.bytes <= limits.max_bytes
        for band in control.registry.bands:
            there = [ticket for ticket in self.waiting if ticket.priority == band.priority]
            assert (band.held.requests, band.held.bytes) == (len(there), sum(t.size_bytes for t in there))
            assert sum(flow.waiting for flow in band.flows.values()) == len(there)
            assert band.in_flight == sum(t.priority == band.priority for t in self.running)

    @invariant()
    def knows_few_ids(self) -> None:
        names = {name for band in self.control.registry.bands for name in band.flows}
        assert len(names - set(WEIGHTS) - {DEFAULT_FLOW}) <= MAX_IDS

    @invariant()
    def next_expiry_is_not_late(self) -> None:
        assert self.control.next_expiry() <= min((t.deadline_at for t in self.waiting), default=inf)

    @invariant()
    def turns_are_taken(self) -> None:
        if self.fairness == "turns":
            assert all(count <= 1 for count in self.since.values())

    @invariant()
    def counters_stay_close(self) -> None:
        if self.fairness != "counter":
            return
        bound = (self.longest_input + self.most_owed) / min(WEIGHTS.values()) + 1e-6
        flows = {ticket.flow for ticket in self.waiting}
        for one, other in permutations(flows, 2):
            if one.priority == other.priority:
                assert one.counter - other.counter <= bound
        for (one, other), before in self.both_wait.items():
            assert abs(self.gap(one, other) - before) <= 2 * bound

    def teardown(self) -> None:
        if hasattr(self, "control"):
            self.close()
            self.adds_up()


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=150, stateful_step_count=40)
