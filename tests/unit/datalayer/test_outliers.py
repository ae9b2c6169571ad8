"""When endpoints are avoided, for how long, how many at once, and how they come back."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.datalayer.outliers import BASE_S, CAP_S, JITTER, TRIP, Fault, Outliers, fault_of


def outliers(pool: int = 4) -> Outliers:
    made = Outliers(Random(1))
    made.resize(pool)
    return made


def away(made: Outliers, pool: int = 4) -> list[int]:
    return np.flatnonzero(~made.available(np.arange(pool))).tolist()


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (200, None),
        (404, None),
        (429, None),
        (500, Fault.SERVER),
        (502, Fault.SERVER),
        (503, Fault.OVERLOADED),
    ],
)
def test_what_a_status_says(status: int, fault: Fault | None) -> None:
    assert fault_of(status) is fault


@pytest.mark.parametrize("fault", list(Fault))
def test_enough_faults_in_a_row_send_an_endpoint_away(fault: Fault) -> None:
    made = outliers()
    for _ in range(TRIP // fault - 1):
        made.failure(2, 0.0, fault)
    assert away(made) == []
    made.failure(2, 0.0, fault)
    assert away(made) == [2]


def test_a_success_between_starts_the_count_again() -> None:
    made = outliers()
    for _ in range(20):
        made.failure(2, 0.0, Fault.SERVER)
        made.failure(2, 0.0, Fault.SERVER)
        made.success(2)
    assert away(made) == []


def test_times_double_up_to_the_cap_and_a_success_resets_them() -> None:
    made, now, expected = outliers(), 0.0, BASE_S
    for _ in range(12):
        made.failure(0, now)
        made.tick(now + expected * (1 - JITTER) - 1e-6)
        assert away(made) == [0]
        now += expected * (1 + JITTER) + 1e-6
        made.tick(now)
        assert away(made) == []
        expected = min(CAP_S, 2 * expected)
    assert made.rounds(0) == 12
    made.success(0)
    assert made.rounds(0) == 0
    made.failure(0, now)
    assert made.rounds(0) == 1
    made.tick(now + BASE_S * (1 + JITTER) + 1e-6)
    assert away(made) == []


def test_after_its_time_one_failure_of_any_kind_is_enough() -> None:
    made = outliers()
    made.failure(0, 0.0)
    made.tick(100.0)
    made.failure(0, 100.0, Fault.OVERLOADED)
    assert away(made) == [0]


def test_failures_of_requests_sent_before_do_not_lengthen_the_time() -> None:
    made = outliers()
    made.failure(0, 0.0)
    for _ in range(50):
        made.failure(0, 0.5)
    made.tick(BASE_S * (1 + JITTER) + 1e-6)
    assert away(made) == []
    assert made.ejections == 1


def test_a_late_success_ends_the_avoidance() -> None:
    made = outliers()
    made.failure(0, 0.0)
    made.success(0)
    assert away(made) == []
    assert made.avoided == 0


def test_a_single_endpoint_is_never_avoided() -> None:
    made = outliers(1)
    for _ in range(50):
        made.failure(0, 0.0)
    assert away(made, 1) == []


def test_when_the_pool_shrinks_the_soonest_due_return() -> None:
    made = outliers(8)
    for slot in range(4):
        made.failure(slot, float(10 * slot))
    made.resize(4)
    assert away(made, 8) == [2, 3]


def test_a_forgotten_slot_starts_clean() -> None:
    made = outliers()
    made.failure(0, 0.0)
    made.forget(0)
    assert away(made) == []
    made.failure(0, 0.0, Fault.SERVER)
    assert away(made) == []


events = st.tuples(
    st.sampled_from(["failure", "success", "tick", "forget", "resize"]),
    st.integers(0, 7),
    st.sampled_from(list(Fault)),
    st.floats(0, 5),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=80))
def test_at_most_half_is_away_and_everybody_comes_back(steps: list[tuple[str, int, Fault, float]]) -> None:
    made, now, size = outliers(8), 0.0, 8
    for what, slot, fault, passed in steps:
        now += passed
        version, before = made.version, away(made, 8)
        if what == "failure":
            made.failure(slot, now, fault)
        elif what == "success":
            made.success(slot)
        elif what == "tick":
            made.tick(now)
        elif what == "forget":
            made.forget(slot)
        else:
            size = slot + 1
            made.resize(size)
        after = away(made, 8)
        assert len(after) == made.avoided <= size // 2
        assert (after == before) or made.version != version
    made.tick(now + CAP_S * (1 + JITTER))
    assert away(made, 8) == []
