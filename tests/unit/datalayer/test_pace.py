"""The interval keeps the budget, the floor and the ceiling, and settles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.datalayer.pace import DEFAULT_INTERVAL_S, MAX_INTERVAL_S, MIN_INTERVAL_S, Pace


def test_a_small_pool_is_scraped_at_the_interval_asked_for() -> None:
    pace = Pace()
    pace.resize(8)
    assert pace.interval_s == DEFAULT_INTERVAL_S
    assert Pace(0.25).interval_s == 0.25
    assert Pace(60.0).interval_s == 60.0
    assert Pace(0.001).interval_s == MIN_INTERVAL_S


def test_a_large_pool_is_scraped_so_often_as_the_budget_allows() -> None:
    pace = Pace(budget=0.2)
    pace.resize(1000)
    for _ in range(50):
        pace.spent(0.070 * 1000e-3, 1000)  # 70 us each
    assert pace.interval_s == pytest.approx(1000 * pace.cost_s / 0.2, rel=0.11)
    assert pace.share == pytest.approx(0.2, rel=0.12)


def test_the_interval_falls_back_when_the_pool_shrinks() -> None:
    pace = Pace()
    pace.resize(10_000)
    assert pace.interval_s > 1.0
    pace.resize(2)
    assert pace.interval_s == DEFAULT_INTERVAL_S


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.floats(-1, 100), st.integers(0, 10_000)), max_size=30),
    st.floats(0.01, 1.0),
)
def test_whatever_is_measured_the_interval_stays_in_bounds(
    steps: list[tuple[int, float, int]], budget: float
) -> None:
    pace = Pace(budget=budget)
    for endpoints, cpu_s, scrapes in steps:
        pace.resize(endpoints)
        pace.spent(cpu_s, scrapes)
        assert DEFAULT_INTERVAL_S <= pace.interval_s <= MAX_INTERVAL_S
        if pace.interval_s < MAX_INTERVAL_S:
            assert pace.share <= budget * 1.12
