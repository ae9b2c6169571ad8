"""`OTEL_*` environment -> a Tracer. This file and `provider` alone know the OpenTelemetry SDK.

Our defaults are the reference picker's (service `llm-d-epp`, sampler parentbased_traceidratio at 0.1) but
for one: with no exporter and no endpoint named, nothing is exported, where it would write every span to the
console. OTEL_BSP_* and OTEL_SPAN_* limits are read by the SDK itself, from the process environment.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TextIO
from urllib.parse import unquote

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from epp.telemetry.otlp import OtlpExporter, OtlpOptions, otlp_options
from epp.telemetry.provider import Ids, Provider
from epp.telemetry.tracing import Sampling, Tracer

SERVICE_NAME = "llm-d-epp"
_SAMPLERS = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """`exporters`: any of `otlp`, `console`; none at all means that tracing is off."""

    exporters: tuple[str, ...]
    sampling: Sampling
    resource: Mapping[str, str]
    otlp: OtlpOptions
    notices: tuple[str, ...] = ()


def settings(enabled: bool, environ: Mapping[str, str]) -> TracingSettings:
    """What the environment asks for. Values that cannot be used become notices, and the default is taken."""
    notices: list[str] = []
    exporters = _exporters(environ, notices) if enabled else ()
    otlp, complaints = otlp_options(environ)
    if "otlp" in exporters:
        notices += complaints
        if otlp is None:
            exporters = tuple(name for name in exporters if name != "otlp")
    return TracingSettings(
        exporters=exporters,
        sampling=_sampling(environ, notices),
        resource=_resource(environ, notices),
        otlp=otlp or OtlpOptions(),
        notices=tuple(notices) if enabled else (),
    )


def open_tracer(
    enabled: bool,
    environ: Mapping[str, str],
    *,
    rng: Random | None = None,
    console: TextIO | None = None,
    exporter: SpanExporter | None = None,
) -> Tracer:
    """The tracer of this process. `exporter` takes the place of those that the environment names."""
    asked = settings(enabled, environ)
    exporters = [exporter] if exporter else [_exporter(name, asked, console) for name in asked.exporters]
    if not enabled or not exporters:
        return Tracer(notices=asked.notices)
    ids = Ids()
    sdk = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource.create(dict(asked.resource)),
        id_generator=ids,
        shutdown_on_exit=False,
    )
    for one in exporters:
        sdk.add_span_processor(BatchSpanProcessor(one))
    return Tracer(Provider(sdk.get_tracer("epp"), ids, sdk), asked.sampling, rng, asked.notices)


def _exporter(name: str, asked: TracingSettings, console: TextIO | None) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter(
            out=console or sys.stderr, formatter=lambda s: s.to_json(indent=None) + "\n"
        )
    return OtlpExporter(asked.otlp)


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


def _exporters(environ: Mapping[str, str], notices: list[str]) -> tuple[str, ...]:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    named = [
        name.strip().lower() for name in environ.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()
    ]
    if not named:
        if any(environ.get(name) for name in _ENDPOINTS):
            return ("otlp",)
        notices.append(
            "tracing is on but exports nothing: set OTEL_EXPORTER_OTLP_ENDPOINT, or "
            "OTEL_TRACES_EXPORTER=console to see the spans here"
        )
        return ()
    known = [name for name in dict.fromkeys(named) if name in ("otlp", "console")]
    unknown = sorted(set(named) - {"otlp", "console", "none"})
    if unknown:
        notices.append(
            f"OTEL_TRACES_EXPORTER: {', '.join(unknown)} not supported; otlp, console and none are"
        )
    return tuple(known)


def _sampling(environ: Mapping[str, str], notices: list[str]) -> Sampling:
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_traceidratio"
    if name not in _SAMPLERS:
        notices.append(
            f"OTEL_TRACES_SAMPLER: {name!r} not supported, parentbased_traceidratio is used; "
            f"there are {', '.join(_SAMPLERS)}"
        )
        name = "parentbased_traceidratio"
    ratio, parent_based = _SAMPLERS[name]
    if ratio is not None:
        return Sampling(ratio, parent_based)
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if not text:
        # With a sampler named but no argument the specification says 1; the reference's default pair is 0.1.
        return Sampling(1.0 if environ.get("OTEL_TRACES_SAMPLER") else 0.1, parent_based)
    try:
        ratio = float(text)
        if not 0.0 <= ratio <= 1.0:
            raise ValueError
    except ValueError:
        notices.append(f"OTEL_TRACES_SAMPLER_ARG: {text!r} is not a number from 0 to 1; 0.1 is used")
        ratio = 0.1
    return Sampling(ratio, parent_based)


def _resource(environ: Mapping[str, str], notices: list[str]) -> dict[str, str]:
    attributes: dict[str, str] = {"service.name": SERVICE_NAME}
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, equals, value = pair.partition("=")
        if equals and name.strip():
            attributes[name.strip()] = unquote(value.strip())
        elif pair.strip():
            notices.append(f"OTEL_RESOURCE_ATTRIBUTES: {pair.strip()!r} is not name=value and is left out")
    if environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = environ["OTEL_SERVICE_NAME"]
    return attributes
