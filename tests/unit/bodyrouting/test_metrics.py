"""The metrics page of body-based routing, its traces, and what the documentation says of both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from epp.bodyrouting.basemodels import BaseModels
from epp.bodyrouting.door import BodyDoor
from epp.bodyrouting.metrics import TABLE, BodyMetrics
from epp.bodyrouting.steps import DEFAULT
from epp.domain.views import Ending, Report, Route
from epp.telemetry.otel import open_tracer
from tests.unit.bodyrouting.doors import door, head, number, told

DOCS = Path(__file__).parents[3] / "docs" / "route-by-model.md"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_counters_are_there_before_they_count() -> None:
    page = "".join(door().metrics.render())
    for line in (
        "bbr_success_total 0",
        'bbr_body_field_not_found_total{field="model"} 0',
        'bbr_body_field_empty_total{field="model"} 0',
        "epp_bodies_not_shown_total 0",
    ):
        assert f"{line}\n" in page


@pytest.mark.parametrize("openmetrics", [False, True])
def test_each_family_is_told_once(openmetrics: bool) -> None:
    made = door()
    told(made, b'{"model": "foo"}')
    page = "".join(made.metrics.render(openmetrics))
    families = re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE)
    assert len(families) == len(set(families))
    assert page.count("# EOF") == (1 if openmetrics else 0)


def test_what_the_transport_tells() -> None:
    made = door()
    metrics = made.metrics
    asked: list[None] = []
    metrics.watch_transport("native", lambda: asked.append(None))
    metrics.watch_base_models(lambda: 7)
    metrics.connections(3, 2)
    metrics.connections(1, 0)
    metrics.protocol_violation("order")
    metrics.internal_error("stream")
    metrics.handoffs((), 0.0)
    metrics.handoffs([1] * (len(TABLE["epp_transport_handoff_seconds"].bounds) + 1), 0.5)
    assert number(made, "epp_transport_connections") == 1
    assert number(made, "epp_transport_handshake_failures_total") == 2
    assert number(made, 'epp_protocol_violations_total{kind="order"}') == 1
    assert number(made, 'epp_internal_errors_total{where="stream"}') == 1
    assert number(made, "epp_transport_handoff_seconds_sum") == 0.5
    assert number(made, 'epp_transport_info{transport="native"}') == 1
    assert number(made, "epp_base_models") == 7
    assert len(asked) == 7, "counts are collected before each page"


def test_the_documentation_names_every_metric() -> None:
    page = DOCS.read_text()
    for metric in TABLE.values():
        labels = "{" + ",".join(metric.labels) + "}" if metric.labels else ""
        name = "epp_transport_*" if metric.name.startswith("epp_transport_") else metric.name
        shown = (
            name if name.startswith(("epp_transport_", "epp_protocol_", "epp_internal_")) else name + labels
        )
        assert f"`{shown}`" in page


def test_a_trace_goes_on_through_here() -> None:
    spans = InMemorySpanExporter()
    tracer = open_tracer(True, {"OTEL_TRACES_SAMPLER": "always_on"}, exporter=spans)
    made = BodyDoor(DEFAULT, BaseModels(), BodyMetrics(DEFAULT), tracer, lambda: 0.0)
    call = made.open(head({":method": "POST", "traceparent": PARENT}))
    route = call.decide(b'{"model": "foo"}')
    assert isinstance(route, Route)
    trace, span = dict(route.set_headers)["traceparent"].split("-")[1:3]
    call.end(Ending.NATURAL, Report())
    tracer.close()
    parse, root = spans.get_finished_spans()
    assert (parse.name, root.name) == ("parse", "gateway.request")
    assert root.context is not None
    assert root.parent is not None
    assert (trace, span) == (f"{root.context.trace_id:032x}", f"{root.context.span_id:016x}")
    assert f"00-{trace}-{root.parent.span_id:016x}-01" == PARENT
