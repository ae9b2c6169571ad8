"""Pickers: order, ties, and the distribution of the weighted one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.datalayer.inflight import Ledger
from epp.scheduling.contract import Cycle
from tests.builders import request, snapshot
from tests.laws.world import build


def pick(name: str, totals: list[float], seed: int = 1, count: int = 1) -> list[int]:
    return next(picks(name, totals, [seed], count))


def picks(name: str, totals: list[float], seeds: Iterable[int], count: int) -> Iterator[list[int]]:
    """One pick a seed; rows are 100 and up, so that a place is no row."""
    cycle = Cycle(request=request(), snapshot=snapshot(1), now=0.0, rng=Random(), inflight=Ledger())
    rows = np.arange(len(totals)) + 100
    values = np.asarray(totals)
    picker = build(name, maxNumOfEndpoints=count)
    for seed in seeds:
        cycle.rng.seed(seed)
        yield [int(row) - 100 for row in picker.pick(cycle, rows, values)]


def firsts(name: str, totals: list[float], draws: int = 3000, count: int = 1) -> dict[int, float]:
    found = Counter(picked[0] for picked in picks(name, totals, range(draws), count))
    return {row: n / draws for row, n in found.items()}


def test_max_score_takes_the_best() -> None:
    assert pick("max-score-picker", [0.1, 3.0, 2.0]) == [1]
    assert pick("max-score-picker", [0.1, 3.0, 2.0], count=2) == [1, 2]
    assert pick("max-score-picker", [0.1, 3.0, 2.0], count=9) == [1, 2, 0]


@given(
    totals=st.lists(st.integers(0, 4), min_size=1, max_size=30), count=st.integers(1, 8), seed=st.integers()
)
@settings(max_examples=100, deadline=None)
def test_max_score_is_a_sort(totals: list[int], count: int, seed: int) -> None:
    picked = pick("max-score-picker", [float(t) for t in totals], seed, count)
    assert [totals[row] for row in picked] == sorted(totals, reverse=True)[:count]


@pytest.mark.parametrize("count", [1, 2])
def test_max_score_breaks_ties_evenly(count: int) -> None:
    shares = firsts("max-score-picker", [1.0, 0.5, 1.0, 1.0], count=count)
    assert set(shares) == {0, 2, 3}
    assert all(abs(share - 1 / 3) < 0.04 for share in shares.values())


def test_random_ignores_totals() -> None:
    shares = firsts("random-picker", [0.0, 100.0, 0.0, 0.0])
    assert all(abs(shares[row] - 0.25) < 0.04 for row in range(4))


@pytest.mark.parametrize("count", [1, 2])
def test_weighted_random_is_in_proportion(count: int) -> None:
    shares = firsts("weighted-random-picker", [1.0, 0.0, 2.0, 5.0], count=count)
    assert set(shares) == {0, 2, 3}
    for row, share in ((0, 0.125), (2, 0.25), (3, 0.625)):
        assert abs(shares[row] - share) < 0.04


def test_weighted_random_draws_the_second_from_the_rest() -> None:
    """P(second is 2 | first is 3) = 2 / 3 of the weights 1 and 2 that are left."""
    drawn = picks("weighted-random-picker", [1.0, 0.0, 2.0, 5.0], range(4000), 2)
    after = [second for first, second in drawn if first == 3]
    assert abs(after.count(2) / len(after) - 2 / 3) < 0.04


def test_weighted_random_excludes_zero_unless_all_are() -> None:
    assert sorted(pick("weighted-random-picker", [0.0, 1.0, 2.0], count=3)) == [1, 2]
    shares = firsts("weighted-random-picker", [0.0, 0.0, 0.0, 0.0])
    assert all(abs(shares[row] - 0.25) < 0.04 for row in range(4))


@pytest.mark.parametrize("name", ["max-score-picker", "random-picker", "weighted-random-picker"])
def test_at_least_one_endpoint(name: str) -> None:
    with pytest.raises(ValueError, match="maxNumOfEndpoints"):
        build(name, maxNumOfEndpoints=0)
