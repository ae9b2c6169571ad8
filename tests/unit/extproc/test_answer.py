"""One answer as the door watches it: usage, times and pauses, a model's name put back."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.request import Api, Usage
from epp.domain.views import AnswerHead, AnswerPlan, Report
from epp.extproc.answer import AnswerWatch, head_of
from epp.telemetry.buckets import ITL_S
from epp.telemetry.series import Histogram

JSON = {":status": "200", "content-type": "application/json", "date": "x"}
EVENTS = {":status": "200", "content-type": "text/event-stream; charset=utf-8", "date": "x"}
CHAT = AnswerPlan(api=Api.CHAT)
RENAMED = AnswerPlan(api=Api.CHAT, restore=("target", "m"))
USAGE = b'"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}'


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Ticking(Clock):
    """A quarter of a second between two looks, which binary floats add up exactly."""

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def watch(plan: AnswerPlan, headers: Mapping[str, str] | None, clock: Clock | None = None) -> AnswerWatch:
    """With the headers shown, unless they are None."""
    clock = clock or Clock()
    made = AnswerWatch(plan, clock)
    if headers is not None:
        made.headers(headers, head_of(headers, None, clock()))
    return made


# --- the head ---------------------------------------------------------------------------------------------


def test_what_the_headers_tell() -> None:
    assert head_of(JSON, "10.0.0.1:8000", 7.0) == AnswerHead(200, 7.0, "10.0.0.1:8000")
    events = head_of({**EVENTS, "content-encoding": "gzip"}, None, 7.0)
    assert (events.streamed, events.encoded, events.local) == (True, True, False)
    assert not head_of({**JSON, "content-encoding": "identity"}, None, 7.0).encoded


@pytest.mark.parametrize("status", ["", "20", "2000", "2²0", "-20", "abc", "9" * 5000])
def test_a_status_that_is_none_is_not_known(status: str) -> None:
    assert head_of({":status": status}, None, 0.0).status == 0
    assert head_of({}, None, 0.0).status == 0


@pytest.mark.parametrize("header", ["date", "server", "x-envoy-upstream-service-time", "x-envoy-overloaded"])
def test_an_answer_without_any_trace_of_an_engine_is_the_gateways_own(header: str) -> None:
    bare = {":status": "503", "content-type": "text/plain"}
    assert head_of(bare, None, 0.0).local
    assert not head_of({**bare, header: ""}, None, 0.0).local


# --- the body ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "data"),
    [
        (JSON, b'{"id":"x",' + USAGE + b"}"),
        (EVENTS, b'data: {"choices":[]}\n\ndata: {"choices":[],' + USAGE + b"}\n\ndata: [DONE]\n\n"),
        (None, b'{"id":"x",' + USAGE + b"}"),
        (None, b'data: {"choices":[],' + USAGE + b"}\n\n"),
    ],
    ids=["json", "events", "json-unannounced", "events-unannounced"],
)
@given(cut=st.integers(0, 100))
def test_usage_is_read_whatever_the_pieces(headers: Mapping[str, str] | None, data: bytes, cut: int) -> None:
    made = watch(CHAT, headers)
    assert made.chunk(data[:cut], False)[0] is None
    assert made.chunk(data[cut:], True)[0] is None
    report = made.report()
    assert report.usage == Usage(5, 3, 8)
    assert (report.observed, report.body_bytes, report.response_id) == (True, len(data), "")


def test_the_id_of_a_response_is_told() -> None:
    made = watch(AnswerPlan(api=Api.RESPONSES), JSON)
    made.chunk(b'{"id": "resp_1", "object": "response"}', True)
    assert made.report().response_id == "resp_1"


def test_an_answer_of_no_known_kind_is_only_counted() -> None:
    made = watch(CHAT, {":status": "200", "content-type": "audio/mpeg"})
    made.chunk(b"{" + USAGE + b"}", True)
    report = made.report()
    assert (report.usage, report.body_bytes) == (None, len(USAGE) + 2)


def test_a_name_is_put_back_and_its_length_is_open() -> None:
    made = watch(RENAMED, JSON)
    assert made.changes_length
    one, _ = made.chunk(b'{"model":"targ', False)
    other, _ = made.chunk(b'et","n":1}', True)
    assert (one, other) == (b"{", b'"model":"m","n":1}')
    assert made.report().body_bytes == 24, "as the model server sent it"


def test_what_is_held_back_goes_before_trailers() -> None:
    made = watch(RENAMED, JSON)
    assert made.chunk(b'{"model":"tar', False)[0] == b"{"
    assert made.flush() == b'"model":"tar'
    assert watch(CHAT, JSON).flush() is None


def test_encoded_answers_are_left_alone() -> None:
    made = watch(RENAMED, {**JSON, "content-encoding": "gzip"})
    assert not made.changes_length
    assert made.chunk(b'\x1f\x8b{"model":"target",' + USAGE + b"}", True)[0] is None
    assert made.report().usage is None


def test_an_answer_without_its_headers_is_read_and_left_as_it_is() -> None:
    """response_header_mode SKIP: the length has gone out, so the model's name cannot be put back."""
    made = watch(RENAMED, None)
    assert made.chunk(b'{"model":"target",' + USAGE + b"}", True) == (None, True)
    assert not made.changes_length
    assert made.report().usage == Usage(5, 3, 8)


# --- times ------------------------------------------------------------------------------------------------


def test_the_first_piece_with_content_is_told_once() -> None:
    made = watch(CHAT, JSON)
    firsts = [made.chunk(data, last)[1] for data, last in ((b"", False), (b"a", False), (b"b", True))]
    assert firsts == [False, True, False]


@given(st.lists(st.sampled_from([0.0, 0.0005, 0.001, 0.0625, 0.5, 1.0, 2.0, 64.0]), min_size=1))
def test_pauses_of_a_streamed_answer_are_counted_as_the_metric_counts(pauses: list[float]) -> None:
    clock = Clock()
    made = watch(CHAT, EVENTS, clock)
    metric = Histogram(ITL_S)
    clock.now += 3.0  # to the first token: no pause
    made.chunk(b"data: {}\n\n", False)
    last_at = clock.now
    for pause in pauses:
        clock.now += pause
        metric.observe(clock.now - last_at)
        last_at = clock.now
        made.chunk(b"data: {}\n\n", False)
    clock.now += 5.0
    made.chunk(b"", True)
    report = made.report()
    assert (list(report.gaps), report.gaps_s) == (metric.counts, metric.total)
    assert (report.first_at, report.last_at) == (103.0, last_at)


@pytest.mark.parametrize(
    ("headers", "asked", "counted"),
    [
        (JSON, False, False),
        (JSON, True, True),
        (EVENTS, False, True),
        (None, False, False),
        (None, True, True),
    ],
)
def test_pauses_are_those_of_streamed_answers(
    headers: Mapping[str, str] | None, asked: bool, counted: bool
) -> None:
    made = watch(AnswerPlan(api=Api.CHAT, stream=asked), headers)
    for _ in range(3):
        made.chunk(b"{}", False)
    report = made.report()
    assert sum(report.gaps) == (2 if counted else 0)
    assert len(report.gaps) == (len(ITL_S) + 1 if counted else 0)


def test_our_own_time_is_added_up() -> None:
    made = watch(CHAT, JSON, Ticking())
    made.chunk(b"{", False)
    made.chunk(b"}", True)
    assert made.report().processing_s == 0.5


@pytest.mark.parametrize("headers", [JSON, None])
def test_an_answer_that_was_not_seen_tells_nothing(headers: Mapping[str, str] | None) -> None:
    assert watch(CHAT, headers).report() == Report()


def test_an_answer_that_is_empty_was_seen() -> None:
    made = watch(CHAT, JSON)
    assert made.chunk(b"", True) == (None, False)
    report = made.report()
    assert (report.observed, report.first_at, report.body_bytes, report.usage) == (True, 0.0, 0, None)


def test_that_the_gateway_sent_what_it_need_not_is_told() -> None:
    made = watch(CHAT, JSON)
    made.override_ignored = True
    made.chunk(b"{}", True)
    assert made.report().override_ignored
