"""What is remembered of requests that we answered ourselves."""

from __future__ import annotations

from math import inf

from epp.domain.errors import Reason, Refused
from epp.telemetry.refusals import ID_CHARS, MESSAGE_CHARS, RefusalLog

FULL = Refused(Reason.QUEUE_FULL, "the queue is full", retry_after_s=7)


def test_the_last_of_an_id_is_found_and_says_what_the_client_was_told() -> None:
    log = RefusalLog(wall=lambda: 1_700_000_000.25)
    log.record(Refused(Reason.SHED, "first"), "a")
    log.record(FULL, "a", model="m", priority=-3, fairness_id="t", waited_s=1.25)
    log.record(FULL, "b")
    found = log.find("a")
    assert found is not None
    assert found.described() == {
        "request_id": "a",
        "at": "2023-11-14T22:13:20.250+00:00",
        "status": 429,
        "reason": "queue_full",
        "dropped_reason": "rejected-saturated",
        "message": "the queue is full",
        "retry_after_s": 7,
        "model": "m",
        "priority": -3,
        "fairness_id": "t",
        "waited_s": 1.25,
    }
    assert found.line == (
        "429 queue_full: the queue is full (priority -3, fairness id t, waited 1.250 s, Retry-After 7 s)"
    )
    assert [one.request_id for one in log.recent(2)] == ["b", "a"]
    assert log.find("c") is None


def test_it_is_bounded_by_number_and_by_what_clients_send() -> None:
    log = RefusalLog(capacity=3)
    for i in range(10):
        log.record(Refused(Reason.MALFORMED, "x" * 10_000), "y" * 10_000 + str(i), fairness_id="z" * 10_000)
    assert len(log) == 3
    (last,) = log.recent(1)
    assert (len(last.request_id), len(last.message), len(last.fairness_id)) == (
        ID_CHARS,
        MESSAGE_CHARS,
        ID_CHARS,
    )
    assert log.find("y" * 10_000 + "0") is last


def test_one_that_the_door_refuses_while_it_waits_has_no_endless_wait() -> None:
    log = RefusalLog()
    log.record(FULL, "a", waited_s=inf)
    assert log.recent(1)[0].waited_s == 0
