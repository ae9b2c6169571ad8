"""The event loop's side of flow control: who waits is told once, by whatever ends the wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from epp.admission.control import FlowControl
from epp.admission.eviction import EvictionSettings
from epp.admission.limits import Limits
from epp.admission.settings import FlowControlSettings
from epp.admission.stages import StagedDetector
from epp.datalayer.inflight import Entry, Ledger
from epp.domain.errors import Answer, Reason, Refused, answer_of
from epp.domain.request import Api, Request, RequestHead
from epp.domain.snapshot import Ints, Snapshot
from epp.domain.views import InflightView, Route, Verdict
from epp.queues import Place, Queues
from tests.builders import snapshot as pool


@dataclass
class Pool:
    """A SnapshotSource."""

    snapshot: Snapshot


class PerEndpoint:
    """A detector: so many requests of ours fill an endpoint."""

    def __init__(self, most: int) -> None:
        self.most = most

    def saturation(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> float:
        if not len(rows):
            return 1.0
        return float(inflight.requests(snapshot.slots[rows]).sum()) / (self.most * len(rows))

    def room(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> Room:
        return Room(self.saturation(snapshot, rows, inflight, now), 1.0 / (self.most * max(1, len(rows))))


@dataclass
class Room:
    level: float
    step: float

    def saturation(self) -> float:
        return self.level

    def take(self, requests: int, tokens: int) -> None:
        self.level += requests * self.step


@dataclass
class Caller:
    """Waiting: placed on endpoint 0 when its turn comes."""

    ledger: Ledger
    fails: bool = False
    entry: Entry | None = None
    aborted: list[Refused] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)

    def go(self) -> Verdict:
        if self.fails:
            return self.refuse(Refused(Reason.NO_ENDPOINT_LEFT, "nobody is fit"))
        assert self.entry is None, "sent twice"
        self.entry = self.ledger.start(0)
        return Route("10.0.0.1:8000")

    def refuse(self, refused: Refused) -> Answer:
        self.refusals.append(refused)
        return answer_of(refused)

    def abort(self, refused: Refused) -> None:
        self.aborted.append(refused)


class House:
    def __init__(self, most: int = 1, endpoints: int = 1, **settings: object) -> None:
        self.ledger = Ledger()
        self.source = Pool(pool(endpoints))
        loop = asyncio.get_running_loop()
        made = FlowControlSettings(**settings)  # type: ignore[arg-type]
        self.queues = Queues(
            FlowControl[Place](made, loop.time()),
            StagedDetector(PerEndpoint(most)),
            store=self.source,
            inflight=self.ledger,
            clock=loop.time,
            chance=lambda: 0.0,
        )

    def enter(self, caller: Caller, priority: int = 0, ttl_s: float | None = None):  # type: ignore[no-untyped-def]
        head = RequestHead({}, "POST", "/v1/completions", "r", asyncio.get_running_loop().time())
        request = Request(head, Api.COMPLETIONS, "m", "m", 10, priority=priority)
        return self.queues.enter(caller, request, ttl_s=ttl_s)

    def end(self, caller: Caller, ticket) -> None:  # type: ignore[no-untyped-def]
        if caller.entry is not None:
            caller.entry.end()
        self.queues.ended(ticket, input_tokens=None, output_tokens=None)


async def test_with_room_nobody_waits_and_an_end_lets_the_next_go() -> None:
    house = House()
    first, second = Caller(house.ledger), Caller(house.ledger)
    told: list[bool] = []
    house.queues.on_waiting = told.append
    ticket, verdict = house.enter(first)
    assert verdict == Route("10.0.0.1:8000")
    later_ticket, later = house.enter(second)
    assert isinstance(later, asyncio.Future)
    assert not later.done()
    assert told == [True]
    house.end(first, ticket)
    assert await later == Route("10.0.0.1:8000")
    house.end(second, later_ticket)
    assert (len(house.queues.control), house.queues.control.in_flight, told) == (0, 0, [True, False])


async def test_whoever_leaves_while_waiting_frees_the_place() -> None:
    house = House(limits=Limits(1, None))
    held = Caller(house.ledger)
    house.enter(held)
    gone, ticket = Caller(house.ledger), None
    ticket, later = house.enter(gone)
    full, answer = house.enter(Caller(house.ledger))
    assert full is None
    assert answer.status == 429
    assert "retry-after" in dict(answer.headers)
    house.end(gone, ticket)
    assert gone.entry is None
    _, later = house.enter(Caller(house.ledger))
    assert isinstance(later, asyncio.Future)
    later.cancel()


async def test_a_deadline_ends_the_wait() -> None:
    house = House()
    house.enter(Caller(house.ledger))
    late = Caller(house.ledger)
    _, later = house.enter(late, ttl_s=0.02)
    answer = await later
    assert (answer.status, answer.reason) == (429, Reason.QUEUE_TIMEOUT)
    assert late.entry is None


async def test_a_request_waits_for_the_first_endpoint() -> None:
    house = House(endpoints=0)
    caller = Caller(house.ledger)
    _, later = house.enter(caller)
    assert isinstance(later, asyncio.Future)
    house.source.snapshot = pool(1)
    house.queues.changed()
    assert await later == Route("10.0.0.1:8000")


async def test_one_that_cannot_be_placed_takes_no_room() -> None:
    house = House()
    ticket, answer = house.enter(Caller(house.ledger, fails=True))
    assert answer.status == 429
    assert house.queues.control.in_flight == 0
    house.queues.ended(ticket, input_tokens=None, output_tokens=None)
    _, verdict = house.enter(Caller(house.ledger))
    assert isinstance(verdict, Route)


async def test_shutting_down_answers_everybody() -> None:
    house = House()
    house.enter(Caller(house.ledger))
    waits = [house.enter(Caller(house.ledger))[1] for _ in range(20)]
    assert house.queues.shutdown() == 20
    answers = await asyncio.gather(*waits)
    assert {(answer.status, answer.reason) for answer in answers} == {(503, Reason.SHUTTING_DOWN)}
    assert house.enter(Caller(house.ledger))[1].status == 503


async def test_at_the_headers_only_what_is_certain_is_refused() -> None:
    house = House(limits=Limits(1, None))
    assert house.queues.early(0, "a", 10) is None
    house.enter(Caller(house.ledger))
    house.enter(Caller(house.ledger))
    refused = house.queues.early(0, "default-flow", 10)
    assert refused is not None
    assert refused.reason is Reason.QUEUE_FULL
    assert 1 <= refused.retry_after_s <= 60


async def test_sheddable_work_gives_way() -> None:
    house = House(eviction=EvictionSettings())
    house.queues.control.registry.provision([-1, 5], asyncio.get_running_loop().time())
    low = Caller(house.ledger)
    ticket, _ = house.enter(low, priority=-1)
    _, later = house.enter(Caller(house.ledger), priority=5)
    assert [refused.reason for refused in low.aborted] == [Reason.EVICTED]
    house.end(low, ticket)
    assert await later == Route("10.0.0.1:8000")


@pytest.mark.parametrize("waiting", [1, 50])
async def test_when_room_comes_as_many_go_as_fit(waiting: int) -> None:
    house = House(most=100)
    tickets = []
    for _ in range(100):
        caller = Caller(house.ledger)
        tickets.append((caller, house.enter(caller)[0]))
    waits = [house.enter(Caller(house.ledger))[1] for _ in range(waiting)]
    for caller, ticket in tickets[:50]:
        house.end(caller, ticket)
    verdicts = await asyncio.gather(*waits)
    assert all(isinstance(verdict, Route) for verdict in verdicts)
