"""Numbers of a run against naive arithmetic."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.load.records import Record
from epp.load.summary import Spread, good, parse_goodput, summarise


def record(**more: object) -> Record:
    """Sent at 1, first token at 1.5, done at 2.5, five tokens, 30 of 100 prompt tokens cached."""
    made = Record(
        "s", 1, "m", 0.75, 1.0, 2.5, first_token_at=1.5, status=200, input_tokens=100, cached_tokens=30,
        output_tokens=5, endpoint="pod-a", gaps=array("d", [0.25] * 4),
    )  # fmt: skip
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_latencies_are_what_their_names_say() -> None:
    summary = summarise([record()], 5.0)
    means = {name: spread.mean for name, spread in summary.spreads.items()}
    assert means == {
        "ttft": 500.0, "tpot": 250.0, "itl": 250.0, "e2el": 1500.0,
        "ttft_arrival": 750.0, "e2el_arrival": 1750.0, "lag": 250.0,
    }  # fmt: skip
    assert summary.request_throughput == 0.2
    assert summary.output_throughput == 1.0
    assert summary.total_token_throughput == 21.0
    assert summary.cached_share == 0.3
    assert summary.endpoints == {"pod-a": 1}


def test_errors_are_counted_and_never_averaged_in() -> None:
    failed = record(error="http-429", status=429, ended_at=1.001, first_token_at=None, retry_after="1")
    cut = record(error="reset", status=0, output_tokens=2)
    summary = summarise([record(), failed, cut], 1.0)
    assert (summary.completed, summary.failed, summary.retry_after) == (1, 2, 1)
    assert summary.errors == {"http-429": 1, "reset": 1}
    assert summary.statuses == {"200": 1, "429": 1, "none": 1}
    assert summary.spreads["e2el"].count == 1
    assert summary.total_output_tokens == 5


def test_the_cached_share_is_of_answers_that_report_it() -> None:
    assert summarise([record(), record(cached_tokens=None)], 1.0).cached_share == 0.3
    assert summarise([record(cached_tokens=None)], 1.0).cached_share is None


def test_nothing_at_all_is_no_crash() -> None:
    summary = summarise([], 0.0, goodput={"ttft": 1.0})
    assert summary.request_throughput == 0.0
    assert summary.as_json()["mean_ttft_ms"] == 0.0


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({}, True), ({"ttft": 500}, True), ({"ttft": 499}, False), ({"tpot": 249}, False),
     ({"e2el": 1499}, False), ({"ttft": 500, "tpot": 250, "e2el": 1500}, True)],
)  # fmt: skip
def test_goodput_needs_every_limit(limits: dict[str, float], expected: bool) -> None:
    assert good(record(), limits) is expected
    assert good(record(error="reset"), limits) is False


def test_goodput_of_answers_without_token_times() -> None:
    assert good(record(output_tokens=1), {"tpot": 1}) is True
    assert good(record(first_token_at=None), {"ttft": 1e9}) is False
    assert summarise([record(), record(error="x")], 2.0, goodput={"ttft": 500}).request_goodput == 0.5


def test_goodput_as_it_is_written() -> None:
    assert parse_goodput(["ttft:500 tpot:50", "e2el:2e3"]) == {"ttft": 500, "tpot": 50, "e2el": 2000}


@pytest.mark.parametrize("word", ["ttft", "ttft:", "ttft:-1", "ttft:0", "speed:4", "ttft:nan", "ttft:inf"])
def test_broken_goodput_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="METRIC:MILLISECONDS"):
        parse_goodput([word])


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=60))
def test_a_spread_is_ordered_and_within_its_values(seconds: list[float]) -> None:
    spread = Spread.of(seconds)
    slack = 1e-6
    assert 1000 * min(seconds) - slack <= spread.p50 <= spread.p90 <= spread.p99 <= spread.max
    assert spread.max == pytest.approx(1000 * max(seconds))
    assert spread.count == len(seconds)
    assert spread.mean == pytest.approx(1000 * sum(seconds) / len(seconds), abs=1e-6)
