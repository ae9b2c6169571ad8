"""Arrival processes: order, rates, bounds, grammar."""

from __future__ import annotations

import math
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.load.arrivals import (
    Stage,
    at_once,
    bounded,
    bursts,
    constant,
    gamma,
    parse,
    poisson,
    staged,
)

WORDS = (
    "constant:4", "poisson:10", "gamma:5,0.25", "bursts:3/2", "ramp:1-20/30", "steps:5x10,0x5,20x10",
    "at-once",
)  # fmt: skip


def test_constant_is_exact_however_long_it_runs() -> None:
    assert list(islice(constant(3), 3_000_001))[-1] == 1_000_000.0


@pytest.mark.parametrize("word", WORDS)
def test_every_process_is_ascending_and_repeats_with_its_seed(word: str) -> None:
    first = list(islice(parse(word, Random(7)), 200))
    assert first == sorted(first)
    assert first[0] >= 0
    assert first == list(islice(parse(word, Random(7)), 200))


@pytest.mark.parametrize("word", ["poisson:10", "gamma:5,0.25", "ramp:1-20/30"])
def test_another_seed_is_another_load(word: str) -> None:
    assert list(islice(parse(word, Random(1)), 20)) != list(islice(parse(word, Random(2)), 20))


def test_the_mean_rate_is_the_one_asked_for() -> None:
    # 4,000 gaps: the mean of exponential ones is within 5 % but for one seed in a thousand.
    for process in (poisson(50, Random(1)), gamma(50, 4.0, Random(1)), gamma(50, 0.5, Random(1))):
        assert list(islice(process, 4000))[-1] == pytest.approx(80, rel=0.1)


def test_burstiness_below_one_clumps() -> None:
    def spread(burstiness: float) -> float:
        times = list(islice(gamma(10, burstiness, Random(3)), 2000))
        gaps = [b - a for a, b in pairwise(times)]
        mean = sum(gaps) / len(gaps)
        return math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean

    assert spread(0.25) > 1.5 > spread(1.0) > 0.8 > 0.6 > spread(4.0)


def test_bursts_come_together() -> None:
    assert list(islice(bursts(3, 2.0), 7)) == [0, 0, 0, 2, 2, 2, 4]


def test_a_ramp_brings_what_its_stages_expect_and_more_towards_the_end() -> None:
    times = list(staged([Stage(0, 40, 100)], Random(5)))
    assert len(times) == pytest.approx(2000, rel=0.1)
    assert sum(at > 50 for at in times) == pytest.approx(1500, rel=0.1)
    assert times[-1] <= 100


def test_a_silent_step_is_silent() -> None:
    times = list(staged([Stage(10, 10, 20), Stage(0, 0, 20), Stage(10, 10, 20)], Random(5)))
    assert not any(20 < at < 40 for at in times)
    assert sum(at >= 40 for at in times) == pytest.approx(200, rel=0.25)


@given(start=st.floats(0, 1000), end=st.floats(0, 1000), seconds=st.floats(0.01, 1000), share=st.floats(0, 1))
def test_a_stage_inverts_its_expected_count(start: float, end: float, seconds: float, share: float) -> None:
    stage = Stage(start, end, seconds)
    at = stage.when(stage.expected * share)
    assert 0 <= at <= seconds
    reached = start * at + (end - start) * at * at / (2 * seconds)
    assert reached == pytest.approx(stage.expected * share, rel=1e-6, abs=1e-6)


def test_bounds_and_speed() -> None:
    assert list(bounded(constant(10), count=3)) == [0.0, 0.1, 0.2]
    assert list(bounded(constant(2), seconds=1.2)) == [0.0, 0.5, 1.0]
    assert list(bounded(at_once(), count=2)) == [0, 0]


@pytest.mark.parametrize(
    "word",
    ["", "poisson", "poisson:", "poisson:0", "poisson:-1", "poisson:1e9", "poisson:9999999", "gamma:1,0",
     "bursts:0/1", "bursts:1.5/1", "bursts:1/0", "ramp:0-0/5", "ramp:1-2/0", "steps:", "steps:1x",
     "steps:0x4", "often", "constant:1 "],
)  # fmt: skip
def test_nonsense_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"none of|must be|needed"):
        list(islice(parse(word, Random(0)), 1))
