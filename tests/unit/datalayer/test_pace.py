"""Intervals keep the budget, the floor and the ceiling, in proportion, and settle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.datalayer.pace import DEFAULT_INTERVAL_S, MAX_INTERVAL_S, MIN_INTERVAL_S, Pace

BASE = DEFAULT_INTERVAL_S


def test_a_small_pool_is_scraped_at_the_interval_asked_for() -> None:
    pace = Pace()
    pace.resize(BASE, 8)
    assert pace.interval_s(BASE) == BASE
    assert pace.interval_s(0.25) == 0.25
    assert pace.interval_s(60.0) == 60.0
    assert pace.interval_s(0.001) == MIN_INTERVAL_S


def test_a_large_pool_is_scraped_so_often_as_the_budget_allows() -> None:
    pace = Pace(budget=0.2)
    pace.resize(BASE, 1000)
    for _ in range(50):
        pace.spent(0.070 * 1000e-3, 1000)  # 70 us each
    assert pace.interval_s(BASE) == pytest.approx(1000 * pace.cost_s / 0.2, rel=0.11)
    assert pace.share == pytest.approx(0.2, rel=0.12)


def test_the_interval_falls_back_when_the_pool_shrinks() -> None:
    pace = Pace()
    pace.resize(BASE, 10_000)
    assert pace.interval_s(BASE) > 1.0
    pace.resize(BASE, -9_998)
    assert pace.interval_s(BASE) == BASE


def test_all_pools_are_stretched_in_one_proportion() -> None:
    pace = Pace(budget=0.2)
    pace.resize(0.1, 1200)
    pace.resize(1.0, 1200)
    assert pace.stretch > 5
    assert pace.interval_s(1.0) == pytest.approx(10 * pace.interval_s(0.1))
    assert pace.longest_s == pace.interval_s(1.0)
    assert pace.share == pytest.approx(0.2, rel=0.11)


def test_who_is_scraped_rarely_enough_leaves_the_saving_to_the_others() -> None:
    pace = Pace(budget=0.2)
    pace.resize(0.1, 4000)
    pace.resize(8.0, 1000)
    pace.resize(30.0, 1000)
    assert pace.interval_s(8.0) == MAX_INTERVAL_S
    assert pace.interval_s(30.0) == 30.0
    assert pace.interval_s(0.1) < MAX_INTERVAL_S
    assert pace.share <= 0.2 * 1.11


def test_a_pool_that_went_counts_no_more() -> None:
    pace = Pace()
    pace.resize(1.0, 50_000)
    pace.resize(BASE, 3)
    pace.resize(1.0, -50_000)
    assert pace.interval_s(BASE) == BASE
    assert pace.longest_s == BASE
    pace.resize(BASE, -3)
    assert pace.longest_s == 0.0
    assert pace.share == 0.0


bases = st.sampled_from([0.01, 0.1, 0.5, 3.0, 60.0])


@given(
    st.lists(
        st.tuples(bases, st.integers(0, 20_000), st.floats(-1, 100), st.integers(0, 10_000)), max_size=30
    ),
    st.floats(0.01, 1.0),
)
def test_whatever_is_measured_intervals_stay_in_bounds(
    steps: list[tuple[float, int, float, int]], budget: float
) -> None:
    pace = Pace(budget=budget)
    held: dict[float, int] = {}
    for base_s, endpoints, cpu_s, scrapes in steps:
        pace.resize(base_s, endpoints - held.get(base_s, 0))
        held[base_s] = endpoints
        pace.spent(cpu_s, scrapes)
        for each in held:
            floor = max(MIN_INTERVAL_S, each)
            assert floor <= pace.interval_s(each) <= max(floor, MAX_INTERVAL_S)
        if any(n and pace.interval_s(each) < MAX_INTERVAL_S for each, n in held.items()):
            assert pace.share <= budget * 1.12
