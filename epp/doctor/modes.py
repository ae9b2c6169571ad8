"""Envoy's ext_proc filter: settings by which requests cannot be routed, or not as well. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from epp.doctor.envoydump import ExtProc, Manager, mapping, seconds
from epp.doctor.finding import Finding, error, ok, warning

DESTINATION = "x-gateway-destination-endpoint"
LB_NAMESPACE = "envoy.lb"
_MESSAGE_TIMEOUT_S = 0.2
"""Envoy's own."""
_SHORT_S = 1.0
_LONG_S = 60.0
_BUFFER_BYTES = 1 << 20
"""Envoy's own."""
_STREAM_IDLE_S = 300.0


def check_filter(manager: Manager, variant: ExtProc) -> Iterator[Finding]:
    subject = place(manager, variant)
    request, answer = (variant.mode.get(f"{side}_body_mode", "NONE") for side in ("request", "response"))
    findings = [
        *_request(subject, manager, variant),
        *_answer(subject, manager, variant),
        *_times(subject, manager, variant),
        *_powers(subject, variant),
    ]
    yield from findings or [ok(subject, f"requests {request}, answers {answer}")]


def place(manager: Manager, variant: ExtProc) -> str:
    where = f"{manager.listener or 'listener'}: ext_proc to {variant.cluster or 'a named target'}"
    some = variant.routes if len(variant.routes) < len(manager.routes) else ()
    return f"{where} (route {some[0].name})" if some else where


def _request(subject: str, manager: Manager, variant: ExtProc) -> Iterator[Finding]:
    mode = variant.mode
    body = str(mode.get("request_body_mode", "NONE"))
    if mode.get("request_header_mode") == "SKIP":
        yield error(
            subject,
            "request_header_mode is SKIP: Envoy lets the headers go before an endpoint can be put into them",
            "set processing_mode.request_header_mode: SEND",
        )
    if body in ("NONE", "STREAMED"):
        yield warning(
            subject,
            f"request_body_mode is {body}: requests are routed at their headers, without model and prompt",
            "set request_body_mode: FULL_DUPLEX_STREAMED, or BUFFERED where bodies are bounded",
        )
    if body == "FULL_DUPLEX_STREAMED" and mode.get("request_trailer_mode") != "SEND":
        yield error(
            subject,
            "request_trailer_mode is not SEND: a body with trailers behind it never ends for the picker",
            "set processing_mode.request_trailer_mode: SEND",
        )
    if body == "BUFFERED" and (manager.buffer_bytes or _BUFFER_BYTES) <= _BUFFER_BYTES:
        size = "1 MiB" if manager.buffer_bytes is None else f"{manager.buffer_bytes} bytes"
        yield warning(
            subject,
            f"request_body_mode is BUFFERED and the listener buffers {size}: larger requests get 413",
            "set per_connection_buffer_limit_bytes of the listener to the largest body (67108864), and "
            "--grpc-max-recv-msg-size of epp above it",
        )


def _answer(subject: str, manager: Manager, variant: ExtProc) -> Iterator[Finding]:
    if variant.requests_only and not all(one.requests_only for one in manager.ext_procs()):
        return  # another filter is the picker's
    mode = variant.mode
    body = str(mode.get("response_body_mode", "NONE"))
    if mode.get("response_header_mode") == "SKIP":
        yield warning(
            subject,
            "response_header_mode is SKIP: errors of endpoints and who served are not seen",
            "set processing_mode.response_header_mode: SEND",
        )
    if body == "BUFFERED":
        yield error(
            subject,
            "response_body_mode is BUFFERED: no answer is streamed, and one over the buffer's limit fails",
            "set response_body_mode: STREAMED, or FULL_DUPLEX_STREAMED",
        )
    if body == "NONE" and mode.get("response_trailer_mode") != "SEND":
        yield warning(
            subject,
            "answers end for the picker at their headers: it counts requests as done that still run",
            "set response_trailer_mode: SEND, which keeps the stream open, or response_body_mode: STREAMED",
        )


def _times(subject: str, manager: Manager, variant: ExtProc) -> Iterator[Finding]:
    told = seconds(variant.raw.get("message_timeout"))
    limit_s = _MESSAGE_TIMEOUT_S if told is None else told
    if limit_s <= _SHORT_S:  # 0 as well: Envoy gives up at once
        which = "Envoy's default of 200 ms" if told is None else f"{limit_s:g} s"
        yield error(
            subject,
            f"message_timeout is {which}: a request that queues, or uploads slowly, fails",
            "set message_timeout to the longest that a request may wait for a server, such as 600s",
        )
    elif limit_s < _LONG_S:
        yield warning(
            subject,
            f"message_timeout is {limit_s:g} s: requests that queue for longer fail",
            "set message_timeout above the longest time in a queue (defaultRequestTTL, bands), such as 600s",
        )
    stream_s = seconds(variant.service.get("timeout"))
    if stream_s:
        found = f"grpc_service.timeout is {stream_s:g} s: it ends the stream of every longer request"
        mend = "remove grpc_service.timeout; message_timeout and stream_idle_timeout bound what stands still"
        yield (error if stream_s < max(limit_s, _STREAM_IDLE_S) else warning)(subject, found, mend)
    idle = seconds(manager.raw.get("stream_idle_timeout"))
    idle_s = _STREAM_IDLE_S if idle is None else idle
    if idle_s and limit_s > idle_s:
        yield warning(
            subject,
            f"message_timeout ({limit_s:g} s) is longer than stream_idle_timeout ({idle_s:g} s), which ends "
            f"waiting requests first",
            "set stream_idle_timeout of the connection manager above message_timeout",
        )


def _powers(subject: str, variant: ExtProc) -> Iterator[Finding]:
    raw = variant.raw
    if raw.get("observability_mode") is True:
        yield error(
            subject, "observability_mode: the picker's choice is not obeyed", "remove observability_mode"
        )
    if raw.get("disable_immediate_response") is True:
        yield error(
            subject,
            "disable_immediate_response: refusals (429, 503) become errors of the stream",
            "remove disable_immediate_response",
        )
    rules = mapping(raw.get("mutation_rules"))
    if rules.get("disallow_all") is True:
        yield error(
            subject,
            f"mutation_rules.disallow_all: the picker may not set {DESTINATION}",
            f"allow it: mutation_rules.allow_expression for {DESTINATION}, or no mutation_rules",
        )
