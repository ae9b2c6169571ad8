"""Which running requests give way, and how fast."""

from __future__ import annotations

from typing import Any

import pytest

from epp.admission.control import FlowControl
from epp.admission.eviction import EvictionSettings
from epp.admission.room import Rising, Slots
from epp.admission.ticket import Ticket
from epp.admission.usage import StaticLimit, StaticLimitParameters
from tests.unit.admission.flows import ask, band, control


def full(*running: tuple[str, int], **settings: Any) -> tuple[FlowControl[str], list[Ticket[str]]]:
    """Requests that run, sent one a second, and a pool with no room for more."""
    bands = {priority: band() for priority in (10, 0, -1, -2)}
    flow = control(bands=bands, eviction=EvictionSettings(), **settings)
    tickets = []
    for i, (name, priority) in enumerate(running):
        tickets.append(ask(flow, name, float(i), priority=priority))
        flow.dispatch(float(i), Slots(99))
        flow.placed(tickets[-1])
    return flow, tickets


def abort(flow: FlowControl[str], now: float, load: float = 1.0) -> list[str]:
    flow.dispatch(now, Rising(load, 0.0))
    return [ticket.waiter for ticket in flow.evict(now)]


def test_the_lowest_priority_goes_first_and_of_those_the_newest() -> None:
    flow, _ = full(("low-1", -2), ("low-2", -2), ("less", -1), ("normal", 0))
    assert abort(flow, 10.0) == []
    ask(flow, "urgent", 10.0, priority=10)
    # 1.0 over 4 in flight: to come below the ceiling takes one of them.
    assert abort(flow, 10.0) == ["low-2"]


def test_nothing_is_aborted_for_work_that_is_no_more_important() -> None:
    flow, _ = full(("less", -1))
    ask(flow, "low", 10.0, priority=-2)
    ask(flow, "same", 10.0, priority=-1)
    assert abort(flow, 10.0) == []
    off = control(bands={-1: band(), 10: band()})
    ask(off, "less", priority=-1)
    off.dispatch(0.0, Slots(1))
    ask(off, "urgent", priority=10)
    assert abort(off, 1.0) == []


def test_at_most_two_at_once_and_then_it_waits_for_what_that_gave() -> None:
    flow, tickets = full(*[(f"low-{i}", -1) for i in range(6)])
    ask(flow, "urgent", 10.0, priority=10)
    assert flow.reclaim is not None
    assert abort(flow, 10.0, load=3.0) == ["low-5", "low-4"]
    assert flow.reclaim.target == pytest.approx(2.0)
    assert flow.reclaim.pending == pytest.approx(1.0)
    assert abort(flow, 11.0, load=3.0) == []
    flow.finished(tickets[5], 11.0)
    assert abort(flow, 12.0, load=3.0) == []
    flow.finished(tickets[4], 12.0)
    assert abort(flow, 12.4, load=3.0) == []
    assert abort(flow, 12.5, load=1.1) == ["low-3"]


def test_one_that_does_not_end_counts_as_ended_after_a_while() -> None:
    flow, _ = full(("low-0", -1), ("low-1", -1))
    ask(flow, "urgent", 10.0, priority=10)
    assert abort(flow, 10.0) == ["low-1"]
    assert abort(flow, 19.9) == []
    assert abort(flow, 20.0) == []
    assert flow.reclaim is not None
    assert flow.reclaim.timed_out == 1
    assert abort(flow, 20.5) == ["low-0"]
    assert abort(flow, 99.0) == []


def test_a_band_that_is_closed_for_good_is_no_reason() -> None:
    flow, _ = full(("low", -1), usage=StaticLimit(StaticLimitParameters(0.0)))
    assert len(flow) == 1
    closed, _ = full(usage=StaticLimit(StaticLimitParameters(0.0)))
    ask(closed, "urgent", 10.0, priority=10)
    assert abort(closed, 10.0) == []


def test_a_request_that_ended_is_no_victim() -> None:
    flow, tickets = full(("low-0", -1), ("low-1", -1))
    flow.finished(tickets[1], 5.0)
    ask(flow, "urgent", 10.0, priority=10)
    assert abort(flow, 10.0) == ["low-0"]
    assert tickets[0].revoked
