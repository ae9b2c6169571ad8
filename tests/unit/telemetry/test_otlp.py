"""Spans on the wire: sent to a real gRPC server and read there with descriptors written from the proto."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent import futures
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from epp.domain.views import Ending
from epp.telemetry.otel import open_tracer
from epp.telemetry.otlp import METHOD, OtlpExporter, OtlpOptions, encode
from tests.builders import head
from tests.unit.telemetry.decisions import decision

_T = descriptor_pb2.FieldDescriptorProto
# message -> (field, number, type, repeated); from opentelemetry-proto's trace.proto and common.proto.
_SHAPES: dict[str, list[tuple[str, int, Any, bool]]] = {
    "Request": [("resource_spans", 1, "ResourceSpans", True)],
    "ResourceSpans": [("resource", 1, "Resource", False), ("scope_spans", 2, "ScopeSpans", True)],
    "Resource": [("attributes", 1, "KeyValue", True)],
    "ScopeSpans": [("scope", 1, "Scope", False), ("spans", 2, "Span", True)],
    "Scope": [("name", 1, _T.TYPE_STRING, False), ("version", 2, _T.TYPE_STRING, False)],
    "Span": [
        ("trace_id", 1, _T.TYPE_BYTES, False),
        ("span_id", 2, _T.TYPE_BYTES, False),
        ("trace_state", 3, _T.TYPE_STRING, False),
        ("parent_span_id", 4, _T.TYPE_BYTES, False),
        ("name", 5, _T.TYPE_STRING, False),
        ("kind", 6, _T.TYPE_INT32, False),
        ("start_time_unix_nano", 7, _T.TYPE_FIXED64, False),
        ("end_time_unix_nano", 8, _T.TYPE_FIXED64, False),
        ("attributes", 9, "KeyValue", True),
        ("events", 11, "Event", True),
        ("status", 15, "Status", False),
    ],
    "Event": [
        ("time_unix_nano", 1, _T.TYPE_FIXED64, False),
        ("name", 2, _T.TYPE_STRING, False),
        ("attributes", 3, "KeyValue", True),
    ],
    "Status": [("message", 2, _T.TYPE_STRING, False), ("code", 3, _T.TYPE_INT32, False)],
    "KeyValue": [("key", 1, _T.TYPE_STRING, False), ("value", 2, "AnyValue", False)],
    "ArrayValue": [("values", 1, "AnyValue", True)],
    "AnyValue": [
        ("string_value", 1, _T.TYPE_STRING, False),
        ("bool_value", 2, _T.TYPE_BOOL, False),
        ("int_value", 3, _T.TYPE_INT64, False),
        ("double_value", 4, _T.TYPE_DOUBLE, False),
        ("array_value", 5, "ArrayValue", False),
    ],
}


def _request_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="otlp.proto", package="otlp", syntax="proto3")
    for name, fields in _SHAPES.items():
        message = file.message_type.add(name=name)
        if name == "AnyValue":
            message.oneof_decl.add(name="value")
        for field, number, kind, repeated in fields:
            label = _T.LABEL_REPEATED if repeated else _T.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if name == "AnyValue":
                added.oneof_index = 0
            if isinstance(kind, str):
                added.type, added.type_name = _T.TYPE_MESSAGE, f".otlp.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("otlp.Request"))


REQUEST = _request_class()


class Collector(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Keeps what is exported to it."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.metadata: list[dict[str, Any]] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        assert handler_call_details.method == METHOD
        return grpc.unary_unary_rpc_method_handler(self._export)

    def _export(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self.received.append(REQUEST.FromString(body))
        self.metadata.append(dict(context.invocation_metadata()))
        return b""


@pytest.fixture
def collector() -> Iterator[tuple[Collector, int]]:
    kept = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[kept])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield kept, port
    server.stop(None).wait()


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_spans_arrive(collector: tuple[Collector, int], compression: str) -> None:
    kept, port = collector
    tracer = open_tracer(
        True,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a%20b",
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_RESOURCE_ATTRIBUTES": "pool=eight",
        },
        rng=Random(2),
    )
    trace = tracer.request(head(headers={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}))
    trace.enter("schedule")
    trace.decided(decision())
    trace.end(Ending.ERROR, status=502)
    tracer.close()

    (sent,) = kept.received
    assert kept.metadata[0]["x-tenant"] == "a b"
    (resource,) = sent.resource_spans
    attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert attributes["service.name"] == "llm-d-epp"
    assert attributes["pool"] == "eight"
    (scope,) = resource.scope_spans
    assert scope.scope.name == "epp"
    schedule, root = scope.spans
    assert (schedule.name, root.name) == ("schedule", "gateway.request")
    assert root.trace_id.hex() == schedule.trace_id.hex() == "a" * 32
    assert root.parent_span_id.hex() == "b" * 16
    assert schedule.parent_span_id == root.span_id
    assert (root.kind, schedule.kind) == (2, 1)
    assert 0 < root.start_time_unix_nano <= schedule.start_time_unix_nano <= root.end_time_unix_nano
    assert (root.status.code, root.status.message) == (2, "error")
    values = {a.key: a.value for a in schedule.attributes}
    assert values["epp.seed"].int_value == 7
    assert values["epp.destination"].string_value == "10.0.0.4:8000"
    (event,) = schedule.events
    assert event.name == "dropped"
    assert {a.key for a in event.attributes} == {"filter", "endpoints"}


def test_every_kind_of_value() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    made = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    made.set_attributes({"yes": True, "no": False, "zero": 0, "neg": -5, "f": 0.5, "l": ["a", "b"], "s": ""})
    made.end()
    sent = REQUEST.FromString(encode([made]))  # type: ignore[list-item]
    values = {a.key: a.value for a in sent.resource_spans[0].scope_spans[0].spans[0].attributes}
    assert values["yes"].bool_value is True
    assert values["no"].WhichOneof("value") == "bool_value"
    assert values["zero"].WhichOneof("value") == "int_value"
    assert values["neg"].int_value == -5
    assert values["f"].double_value == 0.5
    assert [v.string_value for v in values["l"].array_value.values] == ["a", "b"]
    assert values["s"].WhichOneof("value") == "string_value"


def test_a_missing_collector_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    exporter = OtlpExporter(OtlpOptions(target="127.0.0.1:1", timeout_s=1.0))
    with caplog.at_level(logging.WARNING):
        assert exporter.export([]).name == "FAILURE"
        assert exporter.export([]).name == "FAILURE"
    exporter.shutdown()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "127.0.0.1:1" in line
