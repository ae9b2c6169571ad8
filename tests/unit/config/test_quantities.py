from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.quantities import UNLIMITED, duration, limit, positive_duration, positive_quantity, quantity


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        (0, 0),
        (5000, 5000),
        ("5000", 5000),
        ("1k", 1000),
        ("1G", 10**9),
        ("64Mi", 64 << 20),
        ("1.5Gi", 3 << 29),
        ("500m", 1),
        ("1500m", 2),
        ("1e3", 1000),
        ("2E2", 200),
        ("1E", 10**18),
        (1.5, 2),
    ],
)
def test_quantities(written: object, amount: int) -> None:
    assert quantity(written) == amount


@pytest.mark.parametrize(
    "written", ["", "1Gb", "G", "-1", "-1Ki", "1 G", "10E", True, None, [], "9e18000", "1e99"]
)
def test_what_is_no_quantity(written: object) -> None:
    with pytest.raises(ValueError, match=r"quantity|negative|64-bit"):
        quantity(written)


def test_limits_may_be_unlimited() -> None:
    assert limit("unlimited") == UNLIMITED
    assert limit("1k") == 1000


@given(st.integers(0, 2**62))
def test_whole_numbers_are_their_own_quantity(number: int) -> None:
    assert quantity(number) == quantity(str(number)) == number


@given(st.text(max_size=12))
def test_no_text_raises_anything_but_value_errors(text: str) -> None:
    for read in (quantity, duration, limit):
        with contextlib.suppress(ValueError):
            assert read(text) >= 0 or text == "unlimited"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("200ms", 0.2), ("1m30s", 90.0), ("1h", 3600.0), (0, 0.0), ("0", 0.0), ("0s", 0.0)],
)
def test_durations(written: object, seconds: float) -> None:
    assert duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize("written", [5, 1.5, True, None, "5", "-1s", "1d", []])
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises(ValueError, match=r"duration|negative"):
        duration(written)


def test_what_must_be_positive() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        positive_duration("0s")
    with pytest.raises(ValueError, match="at least 1"):
        positive_quantity("0")
