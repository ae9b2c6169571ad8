"""The line through recent samples: found, not moved by one that is off, moved by several."""

from __future__ import annotations

from random import Random

import pytest

from epp.datalayer.observation.line import Line

PRIOR_S = 0.0002


def fed(line: Line, rng: Random, count: int, base_s: float, token_s: float, noise_s: float = 0.005) -> None:
    for _ in range(count):
        tokens = rng.uniform(0, 8000)
        seconds = base_s + token_s * tokens + rng.gauss(0, noise_s)
        line.saw(tokens, max(0.0, seconds), PRIOR_S)


def test_until_the_first_sample_it_is_as_given() -> None:
    assert Line(0.05, PRIOR_S).at(1000) == pytest.approx(0.25)


def test_base_and_slope_are_found() -> None:
    line = Line(0.05, PRIOR_S)
    fed(line, Random(1), 40, base_s=0.1, token_s=0.0001)
    for tokens in (100, 4000, 16_000):
        assert line.at(tokens) == pytest.approx(0.1 + 0.0001 * tokens, rel=0.05)


def test_one_stalled_request_hardly_moves_it() -> None:
    line = Line(0.05, PRIOR_S)
    fed(line, Random(2), 40, base_s=0.1, token_s=0.0001)
    before = line.at(4000)
    line.saw(4000, 60.0, PRIOR_S)
    assert line.at(4000) == pytest.approx(before, rel=0.1)


def test_an_engine_that_slows_down_is_followed() -> None:
    line = Line(0.05, PRIOR_S)
    fed(line, Random(3), 60, base_s=0.1, token_s=0.0001)
    fed(line, Random(4), 60, base_s=0.1, token_s=0.0004)
    assert line.at(4000) == pytest.approx(0.1 + 0.0004 * 4000, rel=0.1)


def test_prompts_of_one_length_leave_the_slope_to_the_wider_fit() -> None:
    line = Line(0.05, PRIOR_S)
    for _ in range(30):
        line.saw(2000, 0.5, PRIOR_S)
    assert line.at(2000) == pytest.approx(0.5, rel=0.01)
    assert line.token_s == pytest.approx(PRIOR_S, rel=0.05)


def test_it_never_falls_nor_goes_below_zero() -> None:
    line = Line(0.05, PRIOR_S)
    for tokens in range(0, 8000, 100):
        line.saw(tokens, 1.0 - tokens / 8000, PRIOR_S)
    assert line.token_s == 0.0
    assert line.base_s >= 0.0
