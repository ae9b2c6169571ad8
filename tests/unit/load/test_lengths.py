"""Drawn lengths, and text made from names."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.load.lengths import MAX_TOKENS, Quantiles, parse, tokens
from epp.load.text import BYTES_PER_TOKEN, estimate, words


@given(low=st.integers(1, 5000), more=st.integers(0, 5000), seed=st.integers())
def test_a_range_holds(low: int, more: int, seed: int) -> None:
    assert low <= tokens(parse(f"{low}-{low + more}"), Random(seed)) <= low + more


@pytest.mark.parametrize(("text", "middle"), [("64", 64), ("normal:400,50", 400), ("lognormal:300,0.7", 300)])
def test_the_middle_is_the_one_named(text: str, middle: int) -> None:
    rng = Random(1)
    drawn = sorted(tokens(parse(text), rng) for _ in range(2001))
    assert drawn[1000] == pytest.approx(middle, rel=0.08)
    assert drawn[0] >= 1


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "9-3", "normal:5", "lognormal:100,9", "5000001", "normal:0,1", "many"]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"none of|must be|above"):
        parse(text)


@given(st.floats(0, 1))
def test_quantiles_hit_their_points_and_never_fall(share: float) -> None:
    measured = Quantiles(((0, 3), (0.5, 40), (0.9, 40), (1, 9000)))
    assert measured.at(0) == pytest.approx(3)
    assert measured.at(0.5) == pytest.approx(40)
    assert measured.at(1) == 9000
    assert 3 <= measured.at(share) <= measured.at(min(1.0, share + 0.1)) * (1 + 1e-12)


@pytest.mark.parametrize(
    "points", [((0.1, 1), (1, 2)), ((0, 1), (0.9, 2)), ((0, 0), (1, 2)), ((0, 3), (1, 2))]
)
def test_broken_quantiles_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match=r"ascend"):
        Quantiles(points)


def test_lengths_are_bounded_whatever_the_scale() -> None:
    assert tokens(parse("1000"), Random(0), scale=1e9) == MAX_TOKENS
    assert tokens(parse("1000"), Random(0), scale=1e-9) == 1


@given(name=st.text(max_size=20), short=st.integers(0, 300), more=st.integers(0, 300))
def test_text_is_its_name_and_length(name: str, short: int, more: int) -> None:
    text = words(name, short + more)
    assert len(text) == (short + more) * BYTES_PER_TOKEN
    assert text.startswith(words(name, short))
    assert estimate(len(text)) == short + more
    assert all(len(word) == 3 and word.isalpha() for word in text.split())


def test_other_names_share_nothing() -> None:
    assert words("a", 64)[:8] != words("b", 64)[:8]
