"""Fields out of bodies: of JSON only the wanted ones are built, of forms only the short ones are read."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import Message
from enum import Enum, auto
from typing import Any, Final, TypeAlias

import msgspec

from epp.domain.errors import Reason, Refused
from epp.domain.request import Body, RequestHead
from epp.parsing.body import decode, decode_body
from epp.parsing.multipart import form_fields
from epp.parsing.rawjson import NONE

Values: TypeAlias = Sequence[str | None]
"""By the order of the fields: None for what is not there or no single value, empty for null and \"\"."""

MAX_VALUE_BYTES: Final = 4096
"""Longer ones cannot be matched by any route, and gateways limit the headers of a request."""
_ESCAPED: Final = 6
"""Bytes of JSON that one byte of a value may take: \\u0041."""
_FORM: Final = "multipart/form-data"
_TEXT: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)


class _Kind(Enum):
    JSON = auto()
    """Said to be so, or nothing is said: what is none is refused."""
    FORM = auto()
    OTHER = auto()
    """Read where it can be, since many clients name a wrong type; else left alone."""


class FieldReader:
    """Of top-level fields, whose names it is made for."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._nothing: Values = (None,) * len(self.names)
        made = [f"f{index}" for index in range(len(self.names))]
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct(
                "Fields",
                [(field, msgspec.Raw, NONE) for field in made],
                rename=dict(zip(made, self.names, strict=True)),
                gc=False,
            )
        )

    def read(self, head: RequestHead, body: Body, truncated: bool) -> Values:
        """Raises Refused for a whole body that is not what its type says, and for too long values."""
        if not len(body):
            return self._nothing
        content_type = head.headers.get("content-type", "")
        kind = _kind(content_type)
        try:
            if kind is _Kind.FORM:
                return self._of_form(content_type, bytes(body), truncated)
            if kind is _Kind.OTHER and not _opens_object(body):
                return self._nothing
            found = decode_body(self._decoder, head, body, truncated)
        except Refused:
            if truncated or kind is _Kind.OTHER:
                return self._nothing
            raise
        return [
            _value(name, raw) for name, raw in zip(self.names, msgspec.structs.astuple(found), strict=True)
        ]

    def _of_form(self, content_type: str, body: bytes, truncated: bool) -> Values:
        boundary = _boundary(content_type)
        if not boundary:
            raise Refused(
                Reason.MALFORMED, "The multipart content-type has no boundary.", param="content-type"
            )
        fields = form_fields(body, boundary, truncated)
        values: list[str | None] = []
        for name in self.names:
            span = fields.get(name.encode())
            try:
                values.append(None if span is None else body[slice(*span)].decode())
            except UnicodeDecodeError:
                raise Refused(
                    Reason.MALFORMED, f"The form field `{name}` is not valid UTF-8.", param=name
                ) from None
        return values


def _kind(content_type: str) -> _Kind:
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("application/json", "") or kind.endswith("+json"):
        return _Kind.JSON
    return _Kind.FORM if kind == _FORM else _Kind.OTHER


def _opens_object(body: Body) -> bool:
    return bytes(body[:64]).lstrip(b" \t\r\n")[:1] == b"{"


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["content-type"] = content_type
    return (message.get_boundary() or "")[:70].encode("latin-1", "replace")


def _value(name: str, raw: msgspec.Raw) -> str | None:
    view = memoryview(raw)
    if len(view) > MAX_VALUE_BYTES * _ESCAPED + 2:
        raise _too_long(name)
    text = bytes(view)
    first = text[:1]
    if first in (b"", b"{", b"["):
        return None
    if first == b"n":
        return ""
    # A number, true or false as it is written.
    value = decode(_TEXT, text, at=name) if first == b'"' else text.decode("ascii", "replace")
    if len(value) > MAX_VALUE_BYTES or len(value.encode("utf-8", "replace")) > MAX_VALUE_BYTES:
        raise _too_long(name)
    return value


def _too_long(name: str) -> Refused:
    text = f"`{name}` is longer than {MAX_VALUE_BYTES} bytes."
    return Refused(Reason.MALFORMED, text, param=name)
