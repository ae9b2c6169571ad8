"""Ceilings against the reference picker's formulas, and what they hold back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from epp.admission.room import Rising, Slots
from epp.admission.usage import (
    HoldbackParameters,
    PriorityHoldback,
    SoftReflectiveCeiling,
    StaticLimit,
    StaticLimitParameters,
)
from tests.unit.admission.flows import NOTHING, ask, band, control


def holdback(**given: Any) -> PriorityHoldback:
    return PriorityHoldback(msgspec.convert(given, HoldbackParameters))


def test_static() -> None:
    assert StaticLimit(StaticLimitParameters(0.7)).ceilings(0.1, [5, 0]) == [0.7, 0.7]


def test_holdback_by_rank_and_by_value() -> None:
    assert holdback(minCeiling=0.4).ceilings(0, [100, 10, 0]) == pytest.approx([1.0, 0.7, 0.4])
    value = holdback(minCeiling=0.4, maxCeiling=0.9, domain="value")
    assert value.ceilings(0, [100, 10, 0]) == pytest.approx([0.9, 0.45, 0.4])
    assert holdback(minCeiling=0.4, maxCeiling=0.9).ceilings(0, [7]) == [0.9]
    with pytest.raises(ValueError, match="below maxCeiling"):
        holdback(minCeiling=0.9, maxCeiling=0.9)


def test_soft_reflective_lets_every_so_many_pass() -> None:
    soft = SoftReflectiveCeiling(NOTHING)
    assert soft.ceilings(0.3, [5, 0, -5]) == [1.0, 1.0, 1.0]
    assert soft.ceilings(1.0, [5, 0, -5]) == [1.0, 0.0, 0.0]
    opened = [soft.ceilings(0.8, [5, 0])[1] for _ in range(40)]
    assert opened.count(1.0) == 10
    assert all(ceiling in (0.0, 1.0) for ceiling in opened)
    assert soft.ceilings(0.99, [5]) == [1.0]


def test_a_band_that_may_not_send_stops_those_below_it() -> None:
    flow = control(band(), bands={10: band(), -1: band()}, usage=holdback(minCeiling=0.2))
    for name, priority in [("low-1", -1), ("mid-1", 0), ("mid-2", 0), ("high-1", 10), ("high-2", 10)]:
        ask(flow, name, priority=priority)
    sent = flow.dispatch(0.0, Rising(0.45, 0.1))
    # 0.45 and 0.55 let both of the highest go, ceiling 1; at 0.65 the middle band's ceiling of 0.6 is passed.
    assert [ticket.waiter for ticket in sent] == ["high-1", "high-2"]
    assert flow.saturation == pytest.approx(0.65)
    for ticket in sent:
        flow.placed(ticket)
    assert [t.waiter for t in flow.dispatch(0.0, Rising(0.1, 0.01))] == ["mid-1", "mid-2", "low-1"]


def test_a_drain_counts_what_it_sent_before_and_the_ledger_does_not_know() -> None:
    flow = control(band())
    for i in range(6):
        ask(flow, f"a-{i}", input_tokens=10)
    first = flow.dispatch(0.0, Slots(2))
    assert flow.dispatch(0.0, Slots(2)) == []
    flow.placed(first[0])
    assert [t.waiter for t in flow.dispatch(0.0, Slots(2))] == ["a-2"]
    flow.finished(first[1], 0.0)
    flow.placed(first[1])
    assert [t.waiter for t in flow.dispatch(0.0, Slots(3))] == ["a-3", "a-4"]
    # Three are on their way with 10 tokens each: 0.75, and one more fills the pool.
    assert [t.waiter for t in flow.dispatch(0.0, Rising(0.0, 0.0, 1.0 / 40))] == ["a-5"]
