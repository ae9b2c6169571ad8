"""The head of a request out of its headers, the same for every transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from epp.domain.request import AnswerView, RequestHead
from epp.parsing.select import request_path

_MAX_ID_CHARS = 256
"""Of a request id in logs, traces and the decision log; clients choose it. The header goes on whole."""


def request_head(
    headers: Mapping[str, str],
    new_id: Callable[[], str],
    received_at: float,
    has_body: bool,
    subset: tuple[str, ...] | None,
    answer_view: AnswerView,
    authority: str = "",
    pool: str = "",
) -> RequestHead:
    """`new_id` makes an id for a request that brings none."""
    return RequestHead(
        headers,
        headers.get(":method", "POST"),
        request_path(headers),
        headers.get("x-request-id", "")[:_MAX_ID_CHARS] or new_id(),
        received_at,
        has_body,
        subset,
        answer_view,
        authority=authority,
        pool=pool,
    )
