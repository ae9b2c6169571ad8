"""Envoy's end of ext_proc streams, over real gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from epp.extproc.grpcio import SERVICE


def channel(port: int, *, window_bytes: int = 0, authority: str = "") -> grpc.aio.Channel:
    """`window_bytes`: of what is not read yet, no more is taken; 0 for what gRPC finds best."""
    options: list[tuple[str, int | str]] = [("grpc.use_local_subchannel_pool", 1)]
    if authority:
        options.append(("grpc.default_authority", authority))
    if window_bytes:
        options += [("grpc.http2.lookahead_bytes", window_bytes), ("grpc.http2.bdp_probe", 0)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)


def stream(to: grpc.aio.Channel, metadata: Sequence[tuple[str, str]] = ()) -> Any:
    """A new Process call; `write`, `read` and `done_writing` are Envoy's moves."""
    return to.stream_stream(
        f"/{SERVICE}/Process",
        request_serializer=pb.ProcessingRequest.SerializeToString,
        response_deserializer=pb.ProcessingResponse.FromString,
    )(metadata=tuple(metadata))


def _fields(headers: Mapping[str, str]) -> base_pb2.HeaderMap:
    return base_pb2.HeaderMap(
        headers=[base_pb2.HeaderValue(key=key, raw_value=value.encode()) for key, value in headers.items()]
    )


def request_headers(
    headers: Mapping[str, str] | None = None,
    *,
    end: bool = False,
    modes: tuple[int, int] | None = (4, 4),
    subset: Sequence[str] | str | None = None,
) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    wanted = headers or {":method": "POST", ":path": "/v1/completions", "x-request-id": "r1"}
    message.request_headers.headers.CopyFrom(_fields(wanted))
    message.request_headers.end_of_stream = end
    if modes is not None:
        message.protocol_config.request_body_mode = modes[0]
        message.protocol_config.response_body_mode = modes[1]
    if subset is not None:
        space = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
        space.update({"x-gateway-destination-endpoint-subset": subset})
    return message


def told(message: pb.ProcessingRequest, pool: str) -> pb.ProcessingRequest:
    """With the pool in the dynamic metadata."""
    message.metadata_context.filter_metadata["envoy.lb"].update({"x-gateway-inference-pool": pool})
    return message


def request_body(data: bytes, *, end: bool = False) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=data, end_of_stream=end))


def request_trailers() -> pb.ProcessingRequest:
    return pb.ProcessingRequest(request_trailers=pb.HttpTrailers())


def answer_headers(
    status: int = 200, headers: Mapping[str, str] | None = None, *, end: bool = False, served: str = ""
) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    message.response_headers.headers.CopyFrom(_fields({":status": str(status), **(headers or {})}))
    message.response_headers.end_of_stream = end
    if served:
        message.metadata_context.filter_metadata["envoy.lb"].update(
            {"x-gateway-destination-endpoint-served": served}
        )
    return message


def answer_body(data: bytes, *, end: bool = False) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=data, end_of_stream=end))


def set_headers(response: pb.ProcessingResponse) -> dict[str, str]:
    """Headers that a request_headers or response_headers answer sets."""
    kind = response.WhichOneof("response")
    common = getattr(response, kind).response
    return {o.header.key: o.header.raw_value.decode() for o in common.header_mutation.set_headers}
