"""Protobuf to pieces, actions to protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf import struct_pb2

from epp.extproc.actions import (
    Action,
    BodyReply,
    Fields,
    HeadersReply,
    Immediate,
    Side,
    StreamedReply,
    Target,
    TrailersReply,
)
from epp.extproc.exchange import DESTINATION
from epp.extproc.messages import Message, Piece

_SUBSET_NAMESPACE: Final = "envoy.lb.subset_hint"
_SUBSET_KEY: Final = "x-gateway-destination-endpoint-subset"
_LB_NAMESPACE: Final = "envoy.lb"
_SERVED: Final = "x-gateway-destination-endpoint-served"
_POOL: Final = "x-gateway-inference-pool"
_SCORES: Final = "x-gateway-destination-endpoint-scores"

_MESSAGES: Final = {
    "request_headers": Message.REQUEST_HEADERS,
    "request_body": Message.REQUEST_BODY,
    "request_trailers": Message.REQUEST_TRAILERS,
    "response_headers": Message.ANSWER_HEADERS,
    "response_body": Message.ANSWER_BODY,
    "response_trailers": Message.ANSWER_TRAILERS,
}
_HEADER_MESSAGES: Final = (Message.REQUEST_HEADERS, Message.ANSWER_HEADERS)
_BODY_MESSAGES: Final = (Message.REQUEST_BODY, Message.ANSWER_BODY)


def decode(request: pb.ProcessingRequest) -> tuple[Message, Piece] | None:
    """The message and its content; None when it holds none of the six kinds."""
    kind = request.WhichOneof("request")
    message = _MESSAGES.get(kind)
    if message is None:
        return None
    content = getattr(request, kind)
    metadata = request.HasField("metadata_context")
    pool = _pool(request) if metadata else ""
    if message in _BODY_MESSAGES:
        return message, Piece(
            data=content.body,
            end_of_stream=content.end_of_stream,
            subset=_subset(request) if metadata and message is Message.REQUEST_BODY else None,
            pool=pool,
        )
    if message in _HEADER_MESSAGES:
        # Envoy fills raw_value; the plain value is what older gateways send. Names come in lower case from
        # HTTP/2 and Envoy; of repeated ones the last counts.
        headers = {
            field.key.lower(): str(raw, "utf-8", "replace") if (raw := field.raw_value) else field.value
            for field in content.headers.headers
        }
        if message is Message.REQUEST_HEADERS:
            return message, Piece(
                headers=headers,
                end_of_stream=content.end_of_stream,
                subset=_subset(request) if metadata else None,
                pool=pool,
            )
        served = (_served(request) if metadata else None) or headers.get(_SERVED)
        return message, Piece(headers=headers, end_of_stream=content.end_of_stream, served=served, pool=pool)
    return message, Piece(subset=_subset(request) if metadata else None, pool=pool)


def _subset(request: pb.ProcessingRequest) -> tuple[str, ...] | None:
    """The allowed endpoints: a list of strings, each possibly comma-joined, or one such string."""
    spaces = request.metadata_context.filter_metadata
    if _SUBSET_NAMESPACE not in spaces:
        return None
    fields = spaces[_SUBSET_NAMESPACE].fields
    if _SUBSET_KEY not in fields:
        return None
    value = fields[_SUBSET_KEY]
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        texts: Sequence[str] = (value.string_value,)
    elif kind == "list_value":
        texts = [v.string_value for v in value.list_value.values if v.WhichOneof("kind") == "string_value"]
    else:
        return None
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def _served(request: pb.ProcessingRequest) -> str | None:
    return _told(request, _SERVED) or None


def _pool(request: pb.ProcessingRequest) -> str:
    return _told(request, _POOL)


def _told(request: pb.ProcessingRequest, key: str) -> str:
    """A text in the balancer's own metadata; empty where there is none."""
    spaces = request.metadata_context.filter_metadata
    if _LB_NAMESPACE not in spaces:
        return ""
    fields = spaces[_LB_NAMESPACE].fields
    return fields[key].string_value if key in fields else ""


def encode(action: Action) -> pb.ProcessingResponse | None:
    """The message for an action; None for those that end the stream without one."""
    response = pb.ProcessingResponse()
    if isinstance(action, StreamedReply):
        body = response.response_body if action.side is Side.ANSWER else response.request_body
        streamed = body.response.body_mutation.streamed_response
        streamed.body = action.chunk
        streamed.end_of_stream = action.last
        target = action.target
    elif isinstance(action, HeadersReply):
        headers = response.request_headers if action.side is Side.REQUEST else response.response_headers
        common = headers.response
        _mutate(common, action.set, action.remove)
        if action.target is not None:
            common.clear_route_cache = True
        target = action.target
        headers.SetInParent()
        if action.skip_body:
            response.mode_override.response_body_mode = ProcessingMode.NONE
            response.mode_override.response_trailer_mode = ProcessingMode.SEND
    elif isinstance(action, BodyReply):
        body = response.request_body if action.side is Side.REQUEST else response.response_body
        common = body.response
        _mutate(common, action.set, action.remove)
        if action.body is not None:
            common.body_mutation.body = action.body
        if action.target is not None:
            common.clear_route_cache = True
        target = action.target
        body.SetInParent()
    elif isinstance(action, TrailersReply):
        trailers = response.request_trailers if action.side is Side.REQUEST else response.response_trailers
        trailers.SetInParent()
        target = action.target
    elif isinstance(action, Immediate):
        _immediate(response.immediate_response, action)
        return response
    else:
        return None
    if target is not None and target.destination:
        _put_target(response.dynamic_metadata, target)
    return response


def _mutate(common: pb.CommonResponse, fields: Fields, remove: Sequence[str]) -> None:
    if fields:
        common.header_mutation.set_headers.extend([_option(name, value) for name, value in fields])
    if remove:
        common.header_mutation.remove_headers.extend(remove)


def _option(name: str, value: str) -> base_pb2.HeaderValueOption:
    if not value.isprintable():  # Envoy fails the whole request for a control character in a value
        value = "".join([c if c.isprintable() else "?" for c in value])
    raw = value.encode("utf-8", "replace")
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, raw_value=raw),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _immediate(immediate: pb.ImmediateResponse, action: Immediate) -> None:
    immediate.status.code = action.answer.status
    immediate.headers.set_headers.extend([_option(name, value) for name, value in action.answer.headers])
    immediate.body = action.answer.body
    immediate.details = f"epp_{action.answer.reason.name.lower()}"


def _put_target(metadata: struct_pb2.Struct, target: Target) -> None:
    fields = metadata.fields[_LB_NAMESPACE].struct_value.fields
    fields[DESTINATION].string_value = target.destination
    if target.scores is not None:
        scores = fields[_SCORES].struct_value.fields
        for authority, score in target.scores.items():
            scores[authority].number_value = score
