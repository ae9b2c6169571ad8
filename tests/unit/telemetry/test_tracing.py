"""Traces: who is sampled, what is passed on, what a span says."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from epp.domain.errors import Reason, Refused
from epp.domain.request import Usage
from epp.domain.views import Ending
from epp.telemetry.otel import open_tracer
from epp.telemetry.tracing import TRACEPARENT, UNTRACED, Sampling, Tracer, parse_traceparent
from tests.builders import head, request
from tests.unit.telemetry.decisions import decision

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
PARENT = f"00-{TRACE_ID:032x}-b7ad6b7169203331-01"
ALWAYS = {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}
NEVER = {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}


def open_with(environ: Mapping[str, str], seed: int = 1) -> tuple[Tracer, InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    return open_tracer(True, environ, rng=Random(seed), exporter=kept), kept


def spans(tracer: Tracer, kept: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    tracer.close()
    return {span.name: span for span in kept.get_finished_spans()}


def test_one_request_from_start_to_end() -> None:
    tracer, kept = open_with(ALWAYS)
    trace = tracer.request(head(headers={TRACEPARENT: PARENT, "tracestate": "a=1"}))
    assert trace.recording
    trace.enter("parse")
    trace.parsed(request("secret prompt", model="base"))
    trace.enter("admit")
    trace.enter("schedule")
    trace.decided(decision(faults=(("queue-scorer", "NaN"),)))
    trace.enter("answer")
    trace.end(Ending.NATURAL, status=200, usage=Usage(prompt_tokens=10, completion_tokens=4))
    trace.end(Ending.ERROR)
    trace.enter("late")
    trace.end(Ending.ERROR)

    made = spans(tracer, kept)
    assert made.keys() == {"gateway.request", "parse", "admit", "schedule", "answer"}
    root = made["gateway.request"]
    assert root.context is not None
    assert root.parent is not None
    assert root.context.trace_id == TRACE_ID
    assert f"{root.parent.span_id:016x}" == "b7ad6b7169203331"
    assert root.context.trace_state.get("a") == "1"
    assert list(trace.headers) == [(TRACEPARENT, f"00-{TRACE_ID:032x}-{root.context.span_id:016x}-01")]
    for step in ("parse", "admit", "schedule", "answer"):
        parent = made[step].parent
        assert parent is not None
        assert parent.span_id == root.context.span_id
    assert root.attributes is not None
    assert root.attributes["gen_ai.request.model"] == "base"
    assert root.attributes["gen_ai.usage.output_tokens"] == 4
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["epp.ending"] == "natural"
    schedule = made["schedule"]
    assert schedule.attributes is not None
    assert schedule.attributes["epp.destination"] == "10.0.0.4:8000"
    assert "queue-scorer=0.75x2" in str(schedule.attributes["epp.reasons"])
    assert [event.name for event in schedule.events] == ["dropped", "fault"]
    assert "secret" not in "".join(span.to_json() for span in made.values())


def test_a_new_trace_keeps_the_id_that_was_sampled() -> None:
    tracer, kept = open_with(ALWAYS, seed=5)
    expected = Random(5).getrandbits(128)
    tracer.request(head()).end(Ending.NATURAL)
    root = spans(tracer, kept)["gateway.request"]
    assert root.context is not None
    assert root.context.trace_id == expected
    assert root.parent is None


def test_a_callers_no_is_obeyed_and_goes_on_untouched() -> None:
    tracer, kept = open_with(ALWAYS)
    assert tracer.request(head(headers={TRACEPARENT: PARENT[:-2] + "00"})) is UNTRACED
    assert spans(tracer, kept) == {}


def test_our_own_no_is_passed_on() -> None:
    tracer, kept = open_with(NEVER)
    trace = tracer.request(head())
    ((name, value),) = trace.headers
    assert name == TRACEPARENT
    parsed = parse_traceparent(value)
    assert parsed is not None
    assert parsed[2] == 0
    assert not trace.recording
    assert spans(tracer, kept) == {}


def test_a_sampler_without_parents_overrules_the_caller() -> None:
    tracer, kept = open_with({"OTEL_TRACES_SAMPLER": "always_off"})
    trace = tracer.request(head(headers={TRACEPARENT: PARENT}))
    assert list(trace.headers) == [(TRACEPARENT, PARENT[:-2] + "00")]
    assert spans(tracer, kept) == {}


def test_off_means_nothing_at_all() -> None:
    trace = Tracer().request(head(headers={TRACEPARENT: PARENT}))
    assert trace is UNTRACED
    assert not trace.headers
    trace.enter("parse")
    trace.end(Ending.NATURAL)


def test_a_refusal_and_its_reason() -> None:
    tracer, kept = open_with(ALWAYS)
    trace = tracer.request(head())
    trace.enter("schedule")
    trace.refused(Refused(Reason.NO_ENDPOINTS, "nobody is there"))
    trace.end(Ending.REFUSED)
    made = spans(tracer, kept)
    (event,) = made["schedule"].events
    assert event.attributes is not None
    assert event.attributes["reason"] == "no_endpoints"
    root = made["gateway.request"]
    assert root.attributes is not None
    assert root.attributes["http.response.status_code"] == 503
    assert root.status.status_code is StatusCode.ERROR


def test_a_client_that_leaves_is_no_error() -> None:
    tracer, kept = open_with(ALWAYS)
    tracer.request(head()).end(Ending.CLIENT_DISCONNECT)
    tracer.request(head()).end(Ending.NATURAL, status=404)
    tracer.close()
    assert [span.status.status_code for span in kept.get_finished_spans()] == [StatusCode.UNSET] * 2


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_any_context_is_read_back(trace_id: int, span_id: int, flags: int) -> None:
    value = f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
    assert parse_traceparent(value) == (trace_id, span_id, flags)
    assert parse_traceparent(f" {value} ") == (trace_id, span_id, flags)
    assert parse_traceparent(f"cc-{value[3:]}-more") == (trace_id, span_id, flags)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "x",
        PARENT.upper(),
        PARENT + "-more",
        "ff" + PARENT[2:],
        PARENT.replace(f"{TRACE_ID:032x}", "0" * 32),
        PARENT.replace("b7ad6b7169203331", "0" * 16),
        PARENT[:-1],
    ],
)
def test_what_the_standard_says_to_ignore(value: str | None) -> None:
    assert parse_traceparent(value) is None


@given(st.text())
def test_no_text_breaks_the_reader(value: str) -> None:
    parse_traceparent(value)


def test_the_ratio_is_kept() -> None:
    rng = Random(3)
    sampling = Sampling(0.1)
    taken = sum(sampling.takes(rng.getrandbits(128), None) for _ in range(20_000))
    assert 1800 < taken < 2200
    assert not Sampling(0.0).takes(0, None)
    assert Sampling(1.0).takes((1 << 128) - 1, None)
