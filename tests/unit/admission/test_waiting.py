"""What ends a wait besides being sent, and what the client is then told."""

from __future__ import annotations

import json
from math import inf

import pytest

from epp.admission.limits import Held, Limits
from epp.admission.refusals import evicted, refusal
from epp.admission.retry import DrainRate, retry_after_s
from epp.admission.ticket import Outcome
from epp.domain.errors import DROPPED_REASON, answer_of
from tests.unit.admission.flows import ask, band, control, send


def test_limits_by_requests_and_bytes() -> None:
    flow = control(band(limits=Limits(2, 100)), bands={1: band(limits=Limits(2, 100))}, limits=Limits(3, 150))
    ask(flow, "a", size_bytes=60)
    assert flow.refuses(0, 41) is Outcome.REJECTED_CAPACITY
    second = ask(flow, "b", size_bytes=40)
    assert flow.refuses(0, 0) is Outcome.REJECTED_CAPACITY
    assert flow.refuses(1, 51) is Outcome.REJECTED_CAPACITY
    ask(flow, "c", size_bytes=50, priority=1)
    assert flow.refuses(1, 0) is Outcome.REJECTED_CAPACITY
    assert flow.held.share_of_bytes == 1.0
    assert flow.cancel(second, 0.0)
    assert flow.refuses(1, 40) is None
    assert not flow.cancel(second, 0.0)
    assert second.outcome is Outcome.EVICTED_CONTEXT_CANCELLED


def test_shares_of_limits() -> None:
    held = Held(Limits(4, None))
    held.add(10)
    assert (held.share_of_requests, held.share_of_bytes) == (0.25, 0.0)
    assert Held(Limits(0, 0)).share_of_requests == 1.0


def test_ttl_of_the_configuration_and_of_the_request() -> None:
    flow = control(ttl_s=10.0)
    for name, ttl_s in [("default", None), ("short", 2.0), ("never", inf)]:
        ask(flow, name, 0.0, ttl_s=ttl_s)
    assert flow.next_expiry() == 2.0
    assert [t.waiter for t in flow.expire(2.0)] == ["short"]
    assert flow.next_expiry() == 10.0
    gone = flow.expire(11.0)
    # A request may shorten its wait, not lengthen it.
    late = Outcome.EVICTED_TTL
    assert [(t.waiter, t.outcome, t.waited_s) for t in gone] == [
        ("default", late, 11.0),
        ("never", late, 11.0),
    ]
    assert flow.next_expiry() == inf
    forever = control(ttl_s=None)
    ask(forever, "a")
    assert forever.next_expiry() == inf
    ask(forever, "b", ttl_s=3.0)
    assert forever.next_expiry() == 3.0


def test_without_an_endpoint_another_time_counts_and_the_ttl_begins_anew_with_one() -> None:
    flow = control(ttl_s=5.0, no_endpoint_ttl_s=100.0)
    ask(flow, "early", 0.0)
    flow.pool_changed(empty=True, now=2.0)
    ask(flow, "waits", 3.0)
    ask(flow, "hasty", 3.0, ttl_s=1.0)
    assert [(t.waiter, t.outcome) for t in flow.expire(50.0)] == [("hasty", Outcome.EVICTED_TTL)]
    flow.pool_changed(empty=False, now=60.0)
    assert flow.expire(64.0) == []
    assert flow.next_expiry() == 65.0
    assert [t.waiter for t in flow.expire(65.0)] == ["early", "waits"]
    # All in all no longer than the longer of the two.
    flow.pool_changed(empty=True, now=100.0)
    ask(flow, "last", 100.0)
    flow.pool_changed(empty=False, now=198.0)
    assert flow.next_expiry() == 200.0


def test_a_request_may_wait_for_the_first_endpoint() -> None:
    flow = control(ttl_s=100.0, no_endpoint_ttl_s=5.0)
    ask(flow, "early", 0.0)
    flow.pool_changed(empty=True, now=10.0)
    ask(flow, "late", 12.0)
    assert send(flow, 5, 12.0) == []
    assert flow.next_expiry() == 15.0
    gone = flow.expire(15.0)
    assert [(t.waiter, t.outcome) for t in gone] == [("early", Outcome.EVICTED_NO_ENDPOINTS)]
    flow.pool_changed(empty=True, now=16.0)
    assert flow.next_expiry() == 17.0
    flow.pool_changed(empty=False, now=16.5)
    assert flow.expire(17.0) == []
    assert send(flow, 5, 17.0) == ["late"]


def test_a_full_queue_of_an_empty_pool() -> None:
    flow = control(band(limits=Limits(max_requests=1)))
    flow.pool_changed(empty=True, now=0.0)
    ask(flow, "a")
    assert flow.enqueue("b", 0.0) is Outcome.REJECTED_NO_ENDPOINTS


def test_shutdown_answers_all() -> None:
    flow = control()
    for name in "abc":
        ask(flow, name)
    send(flow, 1)
    gone = flow.shutdown(1.0)
    assert [(t.waiter, t.outcome) for t in gone] == [(name, Outcome.EVICTED_OTHER) for name in "bc"]
    assert flow.shutdown(1.0) == []
    assert flow.enqueue("d", 1.0) is Outcome.REJECTED_OTHER
    assert flow.closed


@pytest.mark.parametrize(
    ("outcome", "state", "status", "dropped"),
    [
        (Outcome.REJECTED_CAPACITY, {}, 429, "rejected-saturated"),
        (Outcome.REJECTED_CAPACITY, {"pool_empty": True}, 503, "rejected-no-endpoints"),
        (Outcome.REJECTED_NO_ENDPOINTS, {}, 503, "rejected-no-endpoints"),
        (Outcome.EVICTED_TTL, {}, 429, "rejected-ttl-expired"),
        (Outcome.EVICTED_TTL, {"pool_empty": True}, 503, "rejected-no-endpoints"),
        (Outcome.EVICTED_NO_ENDPOINTS, {}, 503, "rejected-no-endpoints"),
        (Outcome.EVICTED_CONTEXT_CANCELLED, {}, 503, "rejected-context-cancelled"),
        (Outcome.REJECTED_OTHER, {"closed": True}, 503, "rejected-shutting-down"),
        (Outcome.EVICTED_OTHER, {"closed": True}, 503, "rejected-shutting-down"),
        (Outcome.EVICTED_OTHER, {}, 500, None),
    ],
)
def test_what_the_client_is_told(
    outcome: Outcome, state: dict[str, bool], status: int, dropped: str | None
) -> None:
    answer = answer_of(refusal(outcome, retry_after_s=7, **state))
    headers = dict(answer.headers)
    assert answer.status == status
    assert headers.get(DROPPED_REASON) == dropped
    if outcome not in (Outcome.EVICTED_CONTEXT_CANCELLED, Outcome.EVICTED_OTHER) or state:
        assert headers["retry-after"] == "7"
    assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}


def test_what_an_evicted_client_is_told() -> None:
    answer = answer_of(evicted(9))
    assert (answer.status, dict(answer.headers)[DROPPED_REASON]) == (429, "evicted")


@pytest.mark.parametrize(
    ("ahead", "rate", "earliest", "latest"),
    [
        (0, 10.0, 1, 1),
        (100, 10.0, 10, 15),
        (5, 10.0, 1, 2),
        (10_000, 10.0, 40, 60),
        (10, 0.0, 40, 60),
        (0, None, 2, 3),
    ],
)
def test_retry_after_is_the_time_to_drain_spread_and_bounded(
    ahead: int, rate: float | None, earliest: int, latest: int
) -> None:
    assert retry_after_s(ahead, rate, 0.0) == earliest
    assert retry_after_s(ahead, rate, 0.999999) == latest
    assert earliest <= retry_after_s(ahead, rate, 0.5) <= latest


def test_the_drain_rate_counts_only_while_others_wait() -> None:
    rate = DrainRate(0.0)
    for i in range(1000):
        rate.note(i * 0.01, 5, backlog=False)
    assert rate.per_second() is None
    rate.note(10.0, 0, backlog=True)
    for i in range(1, 501):
        rate.note(10.0 + i * 0.1, 3, backlog=True)
    assert rate.per_second() == pytest.approx(30.0, rel=0.02)
    rate.note(60.0, 0, backlog=False)
    rate.note(900.0, 1, backlog=True)
    assert rate.per_second() == pytest.approx(30.0, rel=0.02)


def test_a_short_stall_says_no_more_than_how_long_it_was() -> None:
    rate = DrainRate(0.0)
    rate.note(0.0, 1, backlog=True)
    for i in range(1, 11):
        rate.note(i * 0.1, 0, backlog=True)
    assert rate.per_second() == pytest.approx(1.0, rel=0.1)
    for i in range(1, 600):
        rate.note(1.0 + i * 0.1, 0, backlog=True)
    assert rate.per_second() == pytest.approx(0.1, rel=0.02)


def test_who_is_refused_waits_for_those_of_equal_and_higher_priority() -> None:
    flow = control(bands={5: band()})
    flow.registry.provision([], 0.0)
    for i in range(400):
        ask(flow, "a", priority=5 if i < 100 else 0)
    for i in range(50):
        send(flow, 1, i * 0.1)
    assert flow.retry_after_s(5, 0.0) == pytest.approx(50 / 10, abs=1)
    # Nothing of its own band goes yet.
    assert flow.retry_after_s(0, 0.0) == 40
    for i in range(50, 350):
        send(flow, 1, i * 0.1)
    assert flow.retry_after_s(0, 0.0) == pytest.approx(50 / 10, abs=1)
