"""Requests without a body: listings, health, and reading or ending a stored response."""

from __future__ import annotations

import re
from typing import Final

from epp.domain.request import Api, Request, RequestHead
from epp.parsing.body import MODEL_HEADER

_RESPONSE: Final = re.compile(r"/responses/([^/]{1,256})(?:/(cancel|input_items))?/?$")
_CALLS: Final = frozenset(("compact", "input_tokens"))
"""POST /v1/responses/{these}: operations, not ids."""


def is_bodiless(head: RequestHead, path: str) -> bool:
    """Whether nothing in the body, if there is one, matters to us."""
    if not head.has_body or head.method in ("GET", "HEAD", "DELETE", "OPTIONS"):
        return True
    return path.endswith("/cancel") and _RESPONSE.search(path) is not None


def parse_bodiless(head: RequestHead, path: str, size_bytes: int) -> Request:
    """`previous_response_id` of /v1/responses/{id}... sends it to where that response was made."""
    found = _RESPONSE.search(path)
    stored = found is not None and found[1] not in _CALLS
    model = head.headers.get(MODEL_HEADER, "")
    return Request(
        head=head,
        api=Api.RESPONSES if stored else Api.OPAQUE,
        model=model,
        target_model=model,
        size_bytes=size_bytes,
        previous_response_id=found[1] if found and stored else "",
    )
