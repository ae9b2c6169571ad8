"""The ext_proc messages of one request and its answer, full duplex, framed for `grpc_client`."""

from __future__ import annotations

from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from gateway_load import chat_body
from grpc_client import framed

CHUNK = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
ROUTED = ("request_headers", "request_body")
"""What a routed request is answered with, where its body fits one message."""


def request(variant: int, *, stream: bool, size_kb: float = 0.5) -> bytes:
    """Headers and the whole body, as Envoy sends them before it has heard anything."""
    head = pb.ProcessingRequest()
    head.protocol_config.request_body_mode = ProcessingMode.FULL_DUPLEX_STREAMED
    head.protocol_config.response_body_mode = ProcessingMode.FULL_DUPLEX_STREAMED
    fields = {":method": "POST", ":path": "/v1/chat/completions", "content-type": "application/json"}
    for name, value in (fields | {"x-request-id": f"bench-{variant}"}).items():
        head.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    content = chat_body(size_kb, variant)
    if stream:
        content = content[:-1] + b', "stream": true}'
    body = pb.ProcessingRequest()
    body.request_body.body = content
    body.request_body.end_of_stream = True
    return framed(head.SerializeToString()) + framed(body.SerializeToString())


def answer_head(*, stream: bool) -> bytes:
    head = pb.ProcessingRequest()
    kind = "text/event-stream" if stream else "application/json"
    for name, value in ((":status", "200"), ("content-type", kind)):
        head.response_headers.headers.headers.add(key=name, raw_value=value.encode())
    return framed(head.SerializeToString())


def answer_body(content: bytes, *, end: bool) -> bytes:
    body = pb.ProcessingRequest()
    body.response_body.body = content
    body.response_body.end_of_stream = end
    return framed(body.SerializeToString())


def kind_of(message: bytes) -> str:
    """The name of an answer's kind: `request_headers`, `immediate_response`, ..."""
    return pb.ProcessingResponse.FromString(message).WhichOneof("response") or ""
