"""JSON bodies: typed partial decoding, refusals that name the field, the model and where it stands."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
import numpy as np

from epp.domain.errors import Reason, Refused
from epp.domain.request import Body, RequestHead
from epp.parsing.cut import completed
from epp.parsing.rawjson import NONE, is_set

T = TypeVar("T")

REWRITE_HEADERS = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
_REWRITE, _REWRITE_OF_GATEWAY = REWRITE_HEADERS
MODEL_HEADER = "x-gateway-model-name"
"""Set by a gateway that has looked into the body before us."""

SMALL_BYTES = 4096
"""Up to here it is cheaper to search a body for a value than to ask for addresses (3 us)."""
LARGE_BYTES = 128 << 10
MAX_OBJECTS = 50_000
"""In bodies above LARGE_BYTES: what takes some 50 ms to decode and flatten. Smaller ones hold hardly more."""
MANY_STRINGS_BYTES = 1 << 20
MAX_QUOTES = 400_000
"""In bodies above MANY_STRINGS_BYTES, likewise."""
_STRIDE = 1 << 18

_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `([^`]+)`")
_BRACE = re.compile(rb"\{")
_TEXT: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)


class Fields(msgspec.Struct, kw_only=True, gc=False):
    """What every JSON body may have. Others are skipped, not built; of repeated ones the last is used."""

    model: msgspec.Raw = NONE
    stream: bool | None = None
    cache_salt: str | None = None


_FIELDS = msgspec.json.Decoder(Fields)
_NAMES: dict[bytes, str] = {}
"""JSON values of models -> names, as long as there are few."""
_NAMES_MAX = 256
_NAME_BYTES = 256


def is_coarse(body: Body) -> bool:
    """Whether the body has so many small values that decoding it would take many times its memory.

    Such a body (none that people write) is hashed as the raw JSON of its prompt instead.
    """
    size = len(body)
    if size <= LARGE_BYTES:
        return False
    return has_more(body, b"{", MAX_OBJECTS) or (
        size > MANY_STRINGS_BYTES and has_more(body, b'"', MAX_QUOTES)
    )


def has_more(body: Body | memoryview, char: bytes, limit: int) -> bool:
    """Whether `char` occurs more than `limit` times. numpy counts frequent ones far faster than bytes do."""
    found = 0
    values = np.frombuffer(body, np.uint8)
    for start in range(0, len(values), _STRIDE):
        found += int(np.count_nonzero(values[start : start + _STRIDE] == char[0]))
        if found > limit:
            return True
    return False


def decode(decoder: msgspec.json.Decoder[T], body: Body | memoryview, *, at: str = "") -> T:
    """The typed part of a JSON text; `at` is the path of this text in the request's body."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error), at) from None
    except UnicodeDecodeError as error:
        raise _malformed(f"invalid UTF-8 in a string ({error.reason})", at) from None
    except (msgspec.DecodeError, ValueError) as error:
        raise _malformed(str(error), at) from None
    except RecursionError:
        raise _malformed("it is nested too deeply", at) from None


def decode_body(decoder: msgspec.json.Decoder[T], head: RequestHead, body: Body, truncated: bool) -> T:
    """As `decode`; a cut body is closed first."""
    if truncated:
        return decode(decoder, completed(body))
    try:
        return decode(decoder, body)
    except Refused:
        encoding = head.headers.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            raise
        raise Refused(
            Reason.MALFORMED, f"Request bodies with content-encoding {encoding[:40]!r} are not supported."
        ) from None


def missing(field: str) -> Refused:
    return Refused(Reason.MALFORMED, f"Missing required field `{field}`.", param=field)


def model_of(
    head: RequestHead, raw: msgspec.Raw, body: Body, truncated: bool, *, needed: bool = True
) -> tuple[str, tuple[int, int] | None]:
    """The model and the span of its JSON value in the body.

    Without a model in the body the name is empty, and the span is the place to write one to: allowed when a
    rewrite header or a rule names the target, when the body is cut or when the API needs none.
    """
    value = bytes(raw)
    if value[:1] == b'"':
        name = _NAMES.get(value)
        if name is None:
            name = decode(_TEXT, value, at="model")
            if len(_NAMES) < _NAMES_MAX and len(value) < _NAME_BYTES:
                _NAMES[value] = name
        if name:
            return name, span_of(raw, body, value) if not truncated else model_span(body)
    elif value not in (b"", b"null"):
        raise Refused(Reason.MALFORMED, "`model` must be a string.", param="model")
    if truncated:
        return head.headers.get(MODEL_HEADER, ""), None
    if needed and not head.model_optional and not rewrite_target(head):
        raise Refused(Reason.MODEL_MISSING, "Missing required field `model`.", param="model")
    if value:
        return "", span_of(raw, body, value)
    found = _BRACE.search(body)
    start = found.end() if found else 0
    return "", (start, start)


def model_span(body: Body) -> tuple[int, int] | None:
    """Where the model's value stands in a whole or cut JSON body; None when it is not there or not whole."""
    whole = completed(body)
    try:
        raw = _FIELDS.decode(whole).model
    except (ValueError, RecursionError):
        return None
    span = span_of(raw, whole, bytes(raw)) if is_set(raw) else None
    return span if span is not None and span[1] <= len(body) else None


def rewrite_target(head: RequestHead) -> str:
    """The model that a header forces on the request; empty for none."""
    headers = head.headers
    return headers.get(_REWRITE) or headers.get(_REWRITE_OF_GATEWAY) or ""


def span_of(raw: msgspec.Raw, body: Body, value: bytes) -> tuple[int, int]:
    """Where a raw value stands in the body, of which it is a view; `value` is the same as bytes."""
    if isinstance(body, bytes) and len(body) <= SMALL_BYTES:
        start = body.find(value)
        if body.find(value, start + 1) < 0:
            return start, start + len(value)
    start = _address(raw) - _address(body)
    return start, start + len(value)


def _address(buffer: Body | msgspec.Raw) -> int:
    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address


def _wrong_field(text: str, at: str) -> Refused:
    found = _PATH.search(text)
    path = found[1] if found else ""
    text = text[: found.start()] if found else text
    if absent := _MISSING.match(text):
        path = f"{path}.{absent[1]}" if path else absent[1]
        return missing(_joined(at, path))
    path = _joined(at, path)
    if not path:
        return Refused(Reason.MALFORMED, f"The request body must be a JSON object: {text}.")
    return Refused(Reason.MALFORMED, f"Wrong value of `{path}`: {text}.", param=path)


def _joined(at: str, path: str) -> str:
    return f"{at}{path}" if not at or path.startswith("[") or not path else f"{at}.{path}"


def _malformed(text: str, at: str) -> Refused:
    if at:
        return Refused(Reason.MALFORMED, f"`{at}` is not valid JSON: {text}.", param=at)
    return Refused(Reason.MALFORMED, f"The request body is not valid JSON: {text}.")
