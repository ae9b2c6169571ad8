"""The OTEL_* environment."""

from __future__ import annotations

import io
import json

import pytest

from epp.domain.views import Ending
from epp.telemetry.otel import SERVICE_NAME, open_tracer, settings
from epp.telemetry.otlp import otlp_options
from epp.telemetry.tracing import Sampling
from tests.builders import head

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}


@pytest.mark.parametrize(
    ("environ", "exporters"),
    [
        ({}, ()),
        (ENDPOINT, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "console"}, ("console",)),
        ({"OTEL_TRACES_EXPORTER": "Console, otlp,console"}, ("console", "otlp")),
        ({"OTEL_TRACES_EXPORTER": "none", **ENDPOINT}, ()),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, ()),
        ({"OTEL_SDK_DISABLED": "true", **ENDPOINT}, ()),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **ENDPOINT}, ()),
    ],
)
def test_where_spans_go(environ: dict[str, str], exporters: tuple[str, ...]) -> None:
    assert settings(True, environ).exporters == exporters
    assert settings(False, environ).exporters == ()


@pytest.mark.parametrize(
    ("name", "argument", "sampling"),
    [
        ("", "", Sampling(0.1, True)),
        ("", "0.5", Sampling(0.5, True)),
        ("always_on", "0.5", Sampling(1.0, False)),
        ("parentbased_always_off", "", Sampling(0.0, True)),
        ("traceidratio", "0.25", Sampling(0.25, False)),
        ("traceidratio", "", Sampling(1.0, False)),
        ("PARENTBASED_TRACEIDRATIO", "1", Sampling(1.0, True)),
    ],
)
def test_samplers(name: str, argument: str, sampling: Sampling) -> None:
    asked = settings(True, {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument, **ENDPOINT})
    assert asked.sampling == sampling
    assert asked.notices == ()


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "jaeger_remote"),
        ({"OTEL_TRACES_SAMPLER_ARG": "nan"}, "nan"),
        ({"OTEL_TRACES_SAMPLER_ARG": "7"}, "'7'"),
        ({"OTEL_TRACES_EXPORTER": "zipkin,otlp"}, "zipkin"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b,broken"}, "broken"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "http/json"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "soon"),
    ],
)
def test_what_cannot_be_used_is_named(environ: dict[str, str], word: str) -> None:
    (notice,) = settings(True, {**ENDPOINT, **environ}).notices
    assert word in notice
    assert settings(False, {**ENDPOINT, **environ}).notices == ()


def test_tracing_without_a_place_to_go_says_so_once() -> None:
    tracer = open_tracer(True, {})
    assert not tracer.enabled
    (notice,) = tracer.notices
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in notice
    assert open_tracer(False, {}).notices == ()


def test_the_service_has_a_name() -> None:
    assert settings(True, {}).resource["service.name"] == SERVICE_NAME
    attributes = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,k=v%20w"}
    assert settings(True, attributes).resource == {"service.name": "a", "k": "v w"}
    assert settings(True, {**attributes, "OTEL_SERVICE_NAME": "b"}).resource["service.name"] == "b"


def test_otlp_options() -> None:
    options, notices = otlp_options(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user@c.example:443/ignored",
            "OTEL_EXPORTER_OTLP_HEADERS": "X-Key=a%3Db, other=2",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "2500",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }
    )
    assert notices == ()
    assert options is not None
    assert (options.target, options.insecure) == ("c.example:443", False)
    assert options.headers == (("x-key", "a=b"), ("other", "2"))
    assert (options.timeout_s, options.gzip) == (2.5, True)


def test_otlp_defaults_are_plain_text_on_this_machine() -> None:
    options, _ = otlp_options({})
    assert options is not None
    assert (options.target, options.insecure, options.timeout_s) == ("localhost:4317", True, 10.0)
    bare, _ = otlp_options({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317", "OTEL_EXPORTER_OTLP_INSECURE": "false"})
    assert bare is not None
    assert (bare.target, bare.insecure) == ("c:4317", False)


def test_the_console_shows_one_span_a_line() -> None:
    console = io.StringIO()
    environ = {"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER": "always_on"}
    tracer = open_tracer(True, environ, console=console)
    trace = tracer.request(head())
    trace.enter("parse")
    trace.end(Ending.NATURAL)
    tracer.close()
    shown = [json.loads(line) for line in console.getvalue().splitlines()]
    assert [span["name"] for span in shown] == ["parse", "gateway.request"]
    assert shown[1]["resource"]["attributes"]["service.name"] == SERVICE_NAME
