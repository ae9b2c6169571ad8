"""The ring of decisions: what is found, and what it may keep alive."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from epp.domain.decision import Decision
from epp.telemetry.reasons import DecisionLog
from tests.builders import snapshot
from tests.unit.telemetry.decisions import decision

CAPACITY = 8


def test_the_last_are_found_newest_first() -> None:
    log = DecisionLog(3)
    for i in range(5):
        log.record(decision(request_id=f"r{i}"))
    assert [d.request_id for d in log.recent(10)] == ["r4", "r3", "r2"]
    assert [d.request_id for d in log.recent(1)] == ["r4"]
    assert log.find("r1") is None
    found = log.find("r2")
    assert found is not None
    assert found.request_id == "r2"


def test_of_two_with_one_id_the_later_is_found_and_outlives_the_first() -> None:
    log = DecisionLog(2)
    first, second = decision(request_id="same"), decision(request_id="same")
    for each in (first, second, decision(request_id="x")):
        log.record(each)
    assert log.find("same") is second


def test_big_pools_hold_fewer() -> None:
    log = DecisionLog(1000, max_bytes=3_000_000)
    pool = snapshot(1000)
    for i in range(200):
        log.record(decision(pool=pool, request_id=f"r{i}"))
    assert 50 < len(log) < 100
    assert log.held_bytes <= 3_000_000


def test_one_decision_too_big_is_still_kept() -> None:
    log = DecisionLog(10, max_bytes=1)
    log.record(decision(request_id="a"))
    log.record(decision(request_id="b"))
    assert [d.request_id for d in log.recent(5)] == ["b"]


def test_a_shared_snapshot_counts_once() -> None:
    pool = snapshot(1000)
    shared, apart = DecisionLog(), DecisionLog()
    for i in range(20):
        shared.record(decision(pool=pool, request_id=str(i)))
        apart.record(decision(pool=snapshot(1000), request_id=str(i)))
    assert apart.held_bytes - shared.held_bytes == 19 * (1024 + 96 * 1000)


class Ring(RuleBasedStateMachine):
    """Against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.log = DecisionLog(CAPACITY)
        self.model: list[Decision] = []
        self.pools = [snapshot(3), snapshot(5)]

    @rule(id_=st.sampled_from("abcdef"), pool=st.integers(0, 1))
    def record(self, id_: str, pool: int) -> None:
        made = decision(pool=self.pools[pool], request_id=id_)
        self.log.record(made)
        self.model = [*self.model, made][-CAPACITY:]

    @invariant()
    def same(self) -> None:
        assert self.log.recent(100) == self.model[::-1]
        for id_ in "abcdef":
            newest = next((d for d in reversed(self.model) if d.request_id == id_), None)
            assert self.log.find(id_) is newest

    @invariant()
    def bytes_are_those_of_a_fresh_ring(self) -> None:
        fresh = DecisionLog(CAPACITY)
        for each in self.model:
            fresh.record(each)
        assert fresh.held_bytes == self.log.held_bytes


TestRing = Ring.TestCase
TestRing.settings = settings(max_examples=25, stateful_step_count=40)
