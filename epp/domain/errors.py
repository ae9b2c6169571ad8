"""Every way to refuse a request, in one table. What is not a Refused is a bug of ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

DROPPED_REASON = "x-llm-d-request-dropped-reason"


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    code: str
    """`error.code` of the OpenAI error shape."""
    type: str
    """`error.type` of the OpenAI error shape."""
    canonical: str
    """`error_code` label of request_error_total, as the reference spells it."""
    dropped: str = ""
    """Value of the drop-reason header; empty for none."""
    retry_after_s: int = 0
    """Retry-After when the refusal brings no better estimate; 0 for none."""


class Reason(Enum):
    """Rows of the refusal table."""

    MALFORMED = _Row(400, "invalid_request", "invalid_request_error", "BadRequest")
    MODEL_MISSING = _Row(400, "missing_required_parameter", "invalid_request_error", "BadRequest")
    UNSUPPORTED_PATH = _Row(400, "unsupported_path", "invalid_request_error", "BadRequest")
    FORBIDDEN = _Row(403, "forbidden", "invalid_request_error", "Forbidden")
    MODEL_NOT_FOUND = _Row(404, "model_not_found", "invalid_request_error", "NotFound")
    PRECONDITION_FAILED = _Row(412, "precondition_failed", "invalid_request_error", "PreconditionFailed")
    BODY_TOO_LARGE = _Row(413, "request_too_large", "invalid_request_error", "BadRequest")
    SHED = _Row(429, "overloaded", "overloaded_error", "ResourceExhausted", "rejected-saturated", 1)
    NO_ENDPOINT_LEFT = _Row(
        429, "no_endpoint_available", "overloaded_error", "ResourceExhausted", "rejected-saturated", 1
    )
    QUEUE_FULL = _Row(429, "queue_full", "overloaded_error", "ResourceExhausted", "rejected-saturated", 1)
    QUEUE_TIMEOUT = _Row(
        429, "queue_timeout", "overloaded_error", "ResourceExhausted", "rejected-ttl-expired", 1
    )
    EVICTED = _Row(429, "evicted", "overloaded_error", "ResourceExhausted", "evicted", 1)
    TOO_MANY_STREAMS = _Row(
        429, "too_many_requests", "overloaded_error", "ResourceExhausted", "rejected-saturated", 1
    )
    INTERNAL = _Row(500, "internal_error", "server_error", "Internal")
    NO_ENDPOINTS = _Row(
        503, "no_endpoints", "service_unavailable_error", "ServiceUnavailable", "rejected-no-endpoints", 5
    )
    POOL_NOT_FOUND = _Row(
        503, "pool_not_found", "service_unavailable_error", "ServiceUnavailable", "rejected-no-endpoints", 5
    )
    SHUTTING_DOWN = _Row(
        503, "shutting_down", "service_unavailable_error", "ServiceUnavailable", "rejected-shutting-down", 1
    )
    CLIENT_GONE = _Row(
        503, "client_disconnected", "service_unavailable_error", "ServiceUnavailable",
        "rejected-context-cancelled",
    )  # fmt: skip
    TIMED_OUT = _Row(408, "request_timeout", "invalid_request_error", "BadRequest")

    @property
    def status(self) -> int:
        return self.value.status

    @property
    def canonical(self) -> str:
        return self.value.canonical


class Refused(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """The request is answered by us. `param` names the offending field, as OpenAI's error shape does."""

    def __init__(
        self, reason: Reason, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param
        self.retry_after_s = reason.value.retry_after_s if retry_after_s is None else retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer of our own."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    reason: Reason


def answer_of(refused: Refused, request_id: str = "") -> Answer:
    """The refusal as an HTTP answer in OpenAI's error shape, under which id the request is found here."""
    row = refused.reason.value
    headers = [("content-type", "application/json")]
    if row.dropped:
        headers.append((DROPPED_REASON, row.dropped))
    if refused.retry_after_s > 0:
        headers.append(("retry-after", str(refused.retry_after_s)))
    if request_id:
        headers.append(("x-request-id", request_id))
    error = {"message": refused.message, "type": row.type, "param": refused.param, "code": row.code}
    body = json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "replace")
    return Answer(row.status, tuple(headers), body, refused.reason)
