"""Spans over OTLP/gRPC.

The messages are written here, field by field, since the compiled OTLP messages of the OpenTelemetry packages
cannot be used beside Envoy's: `xds-protos` installs an older `opentelemetry/proto` over theirs, and one
process can hold only one of the two. Field numbers: opentelemetry-proto 1.x, trace.proto and common.proto.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import grpc
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = logging.getLogger("epp.telemetry.otlp")

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
DEFAULT_ENDPOINT = "http://localhost:4317"
_MASK64 = (1 << 64) - 1
_DOUBLE = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class OtlpOptions:
    target: str = "localhost:4317"
    insecure: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 10.0
    gzip: bool = False
    certificate: str = ""
    client_key: str = ""
    client_certificate: str = ""


def otlp_options(environ: Mapping[str, str]) -> tuple[OtlpOptions | None, tuple[str, ...]]:
    """(options, notices) of OTEL_EXPORTER_OTLP_[TRACES_]*; None where spans cannot be sent as asked."""

    def of(name: str, default: str = "") -> str:
        traces = environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
        return traces or environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip() or default

    notices: list[str] = []
    protocol = of("PROTOCOL", "grpc")
    if protocol != "grpc":
        return None, (
            f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} not supported, only grpc; no spans are sent",
        )
    endpoint = of("ENDPOINT", DEFAULT_ENDPOINT)
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    if not parts.netloc:
        return None, (f"OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint!r} names no host; no spans are sent",)
    # A scheme decides; without one the flag does, and the reference's fallback is plain text.
    insecure = parts.scheme == "http" or (not parts.scheme and of("INSECURE", "true").lower() == "true")
    timeout_s = 10.0
    try:
        timeout_s = float(of("TIMEOUT", "10000")) / 1000  # milliseconds, as the specification says
        if not 0 < timeout_s < 3600:
            raise ValueError
    except ValueError:
        notices.append(f"OTEL_EXPORTER_OTLP_TIMEOUT: {of('TIMEOUT')!r} is not milliseconds; 10000 is used")
        timeout_s = 10.0
    pairs = (pair.partition("=") for pair in of("HEADERS").split(",") if "=" in pair)
    return OtlpOptions(
        target=parts.netloc.rpartition("@")[2],
        insecure=insecure,
        headers=tuple((name.strip().lower(), unquote(value.strip())) for name, _, value in pairs),
        timeout_s=timeout_s,
        gzip=of("COMPRESSION").lower() == "gzip",
        certificate=of("CERTIFICATE"),
        client_key=of("CLIENT_KEY"),
        client_certificate=of("CLIENT_CERTIFICATE"),
    ), tuple(notices)


class OtlpExporter(SpanExporter):
    """Called by the SDK's batch thread. A failed batch is lost; the first failure in a row is logged."""

    def __init__(self, options: OtlpOptions) -> None:
        compression = grpc.Compression.Gzip if options.gzip else grpc.Compression.NoCompression
        if options.insecure:
            self._channel = grpc.insecure_channel(options.target, compression=compression)
        else:
            credentials = grpc.ssl_channel_credentials(
                root_certificates=_file(options.certificate),
                private_key=_file(options.client_key),
                certificate_chain=_file(options.client_certificate),
            )
            self._channel = grpc.secure_channel(options.target, credentials, compression=compression)
        self._call = self._channel.unary_unary(METHOD, request_serializer=None, response_deserializer=None)
        self._options = options
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            self._call(encode(spans), timeout=self._options.timeout_s, metadata=self._options.headers)
        except grpc.RpcError as error:
            if not self._failing:
                logger.warning("spans cannot be sent to %s: %s", self._options.target, _code(error))
            self._failing = True
            return SpanExportResult.FAILURE
        self._failing = False
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._channel.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def _code(error: Exception) -> str:
    """grpc's errors are calls as well, but their types do not say so."""
    code = getattr(error, "code", None)
    return str(code().name) if callable(code) else type(error).__name__


def _file(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """ExportTraceServiceRequest. All spans are taken to be of one resource and scope, as ours are."""
    if not spans:
        return b""
    scope = spans[0].instrumentation_scope
    named = _text(1, scope.name if scope else "") + _text(2, (scope.version if scope else None) or "")
    spans_of_scope = _part(1, named) + b"".join(_part(2, _span(span)) for span in spans)
    resource = _attributes(1, spans[0].resource.attributes)
    return _part(1, _part(1, resource) + _part(2, spans_of_scope))


def _span(span: ReadableSpan) -> bytes:
    context = span.context
    assert context is not None
    written = _part(1, context.trace_id.to_bytes(16, "big")) + _part(2, context.span_id.to_bytes(8, "big"))
    written += _text(3, context.trace_state.to_header())
    if span.parent is not None:
        written += _part(4, span.parent.span_id.to_bytes(8, "big"))
    written += _text(5, span.name)
    written += _number(6, span.kind.value + 1)  # the API counts kinds from 0, the wire from 1
    written += _fixed64(7, span.start_time or 0) + _fixed64(8, span.end_time or 0)
    written += _attributes(9, span.attributes)
    written += b"".join(_part(11, _event(event)) for event in span.events)
    status = _text(2, span.status.description or "") + _number(3, span.status.status_code.value)
    return written + _part(15, status)


def _event(event: Event) -> bytes:
    return _fixed64(1, event.timestamp) + _text(2, event.name) + _attributes(3, event.attributes)


def _attributes(field: int, attributes: Mapping[str, object] | None) -> bytes:
    pairs: Iterable[tuple[str, object]] = (attributes or {}).items()
    return b"".join(_part(field, _text(1, name) + _part(2, _value(value))) for name, value in pairs)


def _value(value: object) -> bytes:
    """AnyValue. Inside a oneof the default must be written too."""
    if isinstance(value, bool):
        return _tag(2, 0) + _varint(int(value))
    if isinstance(value, int):
        return _tag(3, 0) + _varint(value & _MASK64)
    if isinstance(value, float):
        return _tag(4, 1) + _DOUBLE.pack(value)
    if isinstance(value, (list, tuple)):
        return _part(5, b"".join(_part(1, _value(one)) for one in value))
    return _part(1, str(value).encode("utf-8", "replace"))


def _text(field: int, text: str) -> bytes:
    return _part(field, text.encode("utf-8", "replace")) if text else b""


def _number(field: int, value: int) -> bytes:
    return _tag(field, 0) + _varint(value) if value else b""


def _fixed64(field: int, value: int) -> bytes:
    return _tag(field, 1) + value.to_bytes(8, "little")


def _part(field: int, content: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(content)) + content


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
