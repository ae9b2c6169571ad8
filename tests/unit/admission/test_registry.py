"""Bands and flows: made on demand, forgotten when idle, never more than allowed."""

from __future__ import annotations

import gc

import pytest

from epp.admission.attained import AttainedService, AttainedServiceParameters
from epp.admission.fairness import FairnessPolicy
from epp.admission.flow import Flow
from epp.admission.limits import Limits
from epp.admission.room import Slots
from epp.admission.ticket import Outcome
from tests.unit.admission.flows import ask, band, control, counter, send, strict, turns


def test_an_unknown_priority_waits_in_band_0() -> None:
    flow = control(bands={10: band()})
    assert flow.registry.priorities == [10, 0]
    assert ask(flow, "a", priority=10).priority == 10
    assert ask(flow, "a", priority=7).priority == 0
    flow.registry.provision([7, -3], 0.0)
    assert flow.registry.priorities == [10, 7, 0, -3]
    assert ask(flow, "a", priority=7).priority == 7


def test_negative_bands_have_limits_of_their_own() -> None:
    tight = band(limits=Limits(max_requests=1))
    flow = control(registry={"negative": tight})
    flow.registry.provision([-1, 3], 0.0)
    ask(flow, "a", priority=-1)
    assert flow.enqueue("b", 0.0, priority=-1) is Outcome.REJECTED_CAPACITY
    assert flow.refuses(-1, 0) is Outcome.REJECTED_CAPACITY
    assert flow.refuses(3, 0) is None


def test_a_band_whose_objectives_are_gone_ends_when_it_is_empty_and_idle() -> None:
    flow = control(ttl_s=5_000.0)
    flow.registry.provision([5], 0.0)
    old = ask(flow, "a", priority=5)
    flow.registry.provision([], 0.0)
    assert ask(flow, "a", priority=5).priority == 0
    flow.expire(2_000.0)
    assert flow.registry.priorities == [5, 0]
    assert send(flow, 1, 2_000.0) == ["a"]
    flow.finished(old, 2_100.0)
    flow.expire(2_100.0 + 599.0)
    assert flow.registry.priorities == [5, 0]
    flow.expire(2_100.0 + 601.0)
    assert flow.registry.priorities == [0]


def test_so_many_ids_have_flows_and_the_others_share_one() -> None:
    flow = control(registry={"max_fairness_ids": 2, "known_ids": frozenset({"gold"}), "max_id_chars": 8})
    flow.registry.provision([3], 0.0)
    names = [ask(flow, "x", fairness_id=name).flow.fairness_id for name in ("a", "b", "c", "d", "gold", "a")]
    assert names == ["a", "b", "default-flow", "default-flow", "gold", "a"]
    assert ask(flow, "x", fairness_id="a", priority=3).flow.fairness_id == "a"
    assert flow.registry.fairness_ids == 2
    roomy = control(registry={"max_id_chars": 8})
    assert ask(roomy, "x", fairness_id="n" * 9).flow.fairness_id == "default-flow"


def test_an_id_is_free_again_when_all_its_flows_were_idle_for_long() -> None:
    flow = control(registry={"max_fairness_ids": 1}, ttl_s=None)
    flow.registry.provision([3], 0.0)
    waiting, running = ask(flow, "a-1"), ask(flow, "a-2", priority=3)
    send(flow, 1)
    flow.cancel(waiting, 10.0)
    flow.expire(1_000.0)
    assert ask(flow, "b").flow.fairness_id == "default-flow"
    flow.finished(running, 1_000.0)
    flow.expire(1_299.0)
    assert ask(flow, "b").flow.fairness_id == "default-flow"
    flow.expire(1_301.0)
    assert flow.registry.fairness_ids == 0
    assert ask(flow, "b").flow.fairness_id == "b"


@pytest.mark.parametrize(
    "fairness", [strict(), turns(), counter(a=2.0), AttainedService(AttainedServiceParameters())]
)
def test_little_is_kept_of_forgotten_flows(fairness: FairnessPolicy) -> None:
    flow = control(band(fairness))
    for i in range(1_200):
        ask(flow, f"gone{i % 400}-x")
    for ticket in flow.dispatch(0.0, Slots(1_000)):
        flow.finished(ticket, 0.0, output_tokens=1)
    del ticket
    flow.expire(100.0)
    flow.expire(1_000.0)
    ask(flow, "other", 1_000.0)
    send(flow, 1, 1_000.0)
    gc.collect()
    left = [one for one in gc.get_objects() if isinstance(one, Flow) and one.fairness_id.startswith("gone")]
    assert len(left) <= 40


def test_refused_requests_leave_nothing_behind() -> None:
    flow = control(band(limits=Limits(max_requests=0)))
    for i in range(50):
        assert flow.enqueue("x", 0.0, fairness_id=str(i)) is Outcome.REJECTED_CAPACITY
    assert flow.registry.fairness_ids == 0
    assert not flow.registry.band(0).flows


def test_who_holds_little_takes_the_place_of_who_holds_most() -> None:
    flow = control(band(limits=Limits(max_requests=6)))
    for name in ["flood-1", "flood-2", "flood-3", "flood-4", "b-1", "b-2"]:
        ask(flow, name)
    assert flow.victims(0, "flood", 0) == []
    assert [ticket.waiter for ticket in flow.victims(0, "c", 0)] == ["flood-4"]
    (gone,) = flow.make_room(0, "c", 0, 1.0)
    assert gone.outcome is Outcome.REJECTED_CAPACITY
    ask(flow, "c-1")
    # Two, two and three: nobody may take from the flood to hold as much as it has left.
    assert [ticket.waiter for ticket in flow.victims(0, "c", 0)] == ["flood-3"]
    flow.make_room(0, "c", 0, 1.0)
    ask(flow, "c-2")
    assert flow.victims(0, "c", 0) == []
    assert send(flow, 9) == ["flood-1", "flood-2", "b-1", "b-2", "c-1", "c-2"]


def test_a_long_body_takes_the_place_of_several() -> None:
    flow = control(band(limits=Limits(max_bytes=100)))
    for i in range(10):
        ask(flow, f"flood-{i}", size_bytes=10)
    assert [ticket.waiter for ticket in flow.victims(0, "b", 35)] == [f"flood-{i}" for i in (9, 8, 7, 6)]
    assert flow.victims(0, "b", 60) == []
    assert flow.victims(0, "b", 101) == []


def test_important_work_takes_the_place_of_unimportant() -> None:
    flow = control(bands={10: band(), -1: band()}, limits=Limits(max_requests=3))
    for name, priority in [("a-1", -1), ("b-1", 0), ("a-2", -1)]:
        ask(flow, name, priority=priority)
    assert flow.victims(-1, "a", 0) == []
    assert [ticket.waiter for ticket in flow.make_room(10, "a", 0, 0.0)] == ["a-2"]
    ask(flow, "a-3", priority=10)
    assert [ticket.waiter for ticket in flow.make_room(10, "a", 0, 0.0)] == ["a-1"]
    flow.shutdown(0.0)
    assert flow.victims(10, "a", 0) == []
