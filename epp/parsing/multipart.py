"""Audio forms (multipart/form-data): the model stands in a form field beside a file that we never read."""

from __future__ import annotations

import re
from typing import Final

from epp.domain.errors import Reason, Refused
from epp.domain.request import Api, Body, Request, RequestHead
from epp.parsing.body import MODEL_HEADER, rewrite_target

_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_NAME: Final = re.compile(rb'content-disposition:[^\r\n]*?[;\s]name="?([^";\r\n]*)"?', re.IGNORECASE)
_MAX_PARTS: Final = 256
_MAX_HEADER: Final = 4096
_MAX_FIELD: Final = 4096


def parse_audio_form(head: RequestHead, body: Body, truncated: bool) -> Request:
    """The span of the model covers the field's bytes; there are no quotes in a form."""
    body = bytes(body)
    found = _BOUNDARY.search(head.headers.get("content-type", ""))
    fields: dict[bytes, tuple[int, int]] = {}
    if found is not None:
        fields = form_fields(body, (found[1] or found[2]).encode("latin-1", "replace"), truncated)
    elif not truncated:
        raise Refused(Reason.MALFORMED, "The multipart content-type has no boundary.", param="content-type")
    span = fields.get(b"model")
    model = _text(body, span) if span else ""
    if not model:
        span = None
        if truncated:
            model = head.headers.get(MODEL_HEADER, "")
        elif not rewrite_target(head):
            raise Refused(Reason.MODEL_MISSING, "Missing form field `model`.", param="model")
    stream = fields.get(b"stream")
    return Request(
        head=head,
        api=Api.AUDIO,
        model=model,
        target_model=model,
        size_bytes=len(body),
        stream=stream is not None and _text(body, stream).strip().lower() in ("true", "1"),
        # A name that looks like a JSON string could not be told from one when it is replaced.
        model_span=None if model.startswith('"') else span,
    )


def form_fields(body: bytes, boundary: bytes, truncated: bool) -> dict[bytes, tuple[int, int]]:
    """Spans of the short fields by name; of repeated ones the last counts.

    The scan jumps from boundary to boundary and never looks into a file.
    """
    mark = b"--" + boundary
    fields: dict[bytes, tuple[int, int]] = {}
    at = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    if at < 2 and not body.startswith(mark):
        return _ended(fields, truncated)
    for _ in range(_MAX_PARTS):
        at += len(mark)
        if body.startswith(b"--", at):
            return fields
        start = body.find(b"\r\n\r\n", at, at + _MAX_HEADER)
        if start < 0:
            return _ended(fields, truncated)
        name = _NAME.search(body, at, start)
        start += 4
        end = body.find(b"\r\n" + mark, start - 2)
        if end < 0:
            return _ended(fields, truncated)
        end = max(end, start)
        if name is not None and end - start <= _MAX_FIELD:
            fields[name[1]] = (start, end)
        at = end + 2 if end > start or not body.startswith(mark, start) else start
    raise Refused(Reason.MALFORMED, f"The form has more than {_MAX_PARTS} parts.")


def _ended(fields: dict[bytes, tuple[int, int]], truncated: bool) -> dict[bytes, tuple[int, int]]:
    if truncated:
        return fields
    raise Refused(Reason.MALFORMED, "The multipart body is not well formed or ends too early.")


def _text(body: bytes, span: tuple[int, int]) -> str:
    try:
        return body[slice(*span)].decode()
    except UnicodeDecodeError:
        raise Refused(Reason.MALFORMED, "A form field is not valid UTF-8.") from None
