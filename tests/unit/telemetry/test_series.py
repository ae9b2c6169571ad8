"""Counting: buckets, the cap on names, one meter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from epp.telemetry.series import OTHER, Histogram, Names, RequestMeter

BOUNDS = (0.5, 1.0, 2.0)


@given(st.lists(st.one_of(st.floats(0, 3), st.sampled_from(BOUNDS))))
def test_a_bucket_counts_what_is_at_most_its_bound(values: list[float]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    for i, bound in enumerate(BOUNDS):
        assert sum(histogram.counts[: i + 1]) == sum(value <= bound for value in values)
    assert histogram.count == len(values)


def test_adding_leaves_the_added_untouched() -> None:
    one, two = Histogram(BOUNDS), Histogram(BOUNDS)
    one.observe(0.1)
    two.observe(5.0)
    two.observe(1.0)
    one.add(two)
    assert (one.counts, one.total) == ([1, 1, 0, 1], 6.1)
    assert two.counts == [0, 1, 0, 1]


def test_names_beyond_the_limit_become_other_but_pinned_ones_never() -> None:
    names = Names(2)
    names.pin(["served"])
    assert [names(name) for name in ("a", "b", "c", "a", "served", "")] == [
        "a",
        "b",
        OTHER,
        "a",
        "served",
        "",
    ]


def test_what_one_owner_unpins_stays_where_others_pin_it_or_it_had_a_place() -> None:
    names = Names(1)
    names.pin(["shared", "own"], "a")
    names.pin(["shared"], "b")
    assert names("made-up") == "made-up"
    names.pin(["made-up", "new"], "a")
    assert [names(name) for name in ("shared", "own", "new")] == ["shared", OTHER, "new"]
    assert names.pinned("a") == {"made-up", "new"}
    names.pin((), "a")
    names.pin((), "b")
    assert [names(name) for name in ("shared", "new", "made-up")] == [OTHER, OTHER, "made-up"]


def test_a_giant_name_is_not_kept() -> None:
    names = Names(2)
    assert names("x" * 10_000) == OTHER
    assert [names("a"), names("b")] == ["a", "b"]


def test_one_streamed_request() -> None:
    meter = RequestMeter(("m", "m", "f", "0"))
    meter.started(1000)
    assert (meter.requests, meter.running) == (1, 1)
    meter.itl.observe(0.02)
    meter.finished(
        2.0,
        streaming=True,
        ttft_s=0.5,
        response_bytes=300,
        input_tokens=10,
        output_tokens=16,
        cached_tokens=0,
    )
    assert (meter.requests, meter.running) == (1, 0)
    assert meter.ttft_streaming.total == 0.5
    assert meter.ttft.count == 0
    assert meter.tpot.total == 0.1
    assert meter.ntpot.total == 0.125
    assert (meter.cached_tokens.count, meter.cached_tokens.total) == (1, 0.0)


def test_without_streaming_the_first_token_comes_with_the_last() -> None:
    meter = RequestMeter(("m", "m", "f", "0"))
    meter.started(0)
    meter.finished(2.0, ttft_s=1.9, output_tokens=4)
    assert (meter.ttft.total, meter.ttft_streaming.count, meter.tpot.count) == (2.0, 0, 0)


def test_an_engine_that_lies_about_its_tokens_is_not_counted() -> None:
    meter = RequestMeter(("m", "m", "f", "0"))
    meter.started(0)
    meter.finished(1.0, input_tokens=-1, output_tokens=10**400, cached_tokens=1 << 40)
    assert meter.input_tokens.count == meter.output_tokens.count == meter.cached_tokens.count == 0
    assert meter.duration.count == 1


def test_no_tokens_give_no_time_per_token() -> None:
    meter = RequestMeter(("m", "m", "f", "0"))
    meter.started(0)
    meter.finished(1.0, streaming=True, ttft_s=1.0, output_tokens=0)
    meter.started(0)
    meter.finished(1.0, streaming=True, ttft_s=1.0, output_tokens=1)
    assert (meter.ntpot.count, meter.tpot.count) == (1, 0)
