"""Closes a JSON text that was cut off, so that the part that is there can be decoded.

A gateway that sends only the first part of a large body (BUFFERED_PARTIAL) cuts anywhere: within a string,
an escape, a UTF-8 sequence, a number or a key.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:"]', re.DOTALL)
# A string from its opening quote as far as it is whole: surrogates in pairs, escapes complete.
_WHOLE: Final = re.compile(
    rb'"[^"\\]*+(?:\\(?:[^u]|u(?![dD][89abAB])[0-9a-fA-F]{4}'
    rb'|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})[^"\\]*+)*+',
    re.DOTALL,
)
_LONG: Final = frozenset((b'"prompt"', b'"input"', b'"system"', b'"instructions"', b'"text"', b'"query"'))
"""Members of the outermost object that are still of use when cut; half a model name is worse than none."""
_MAX_DEPTH: Final = 512
_MAX_TOKENS: Final = 200_000
"""Strings and signs of structure that are looked at: some 0.1 s."""


def completed(body: bytes | memoryview) -> bytes:
    """The longest prefix of `body` that can be closed, and its closing; b"{}" when there is none."""
    body = bytes(body)
    closers = bytearray()
    safe = 0  # everything before this offset is whole
    safe_depth = 0
    key = b""  # of the outermost object
    awaiting_key = False
    for found in islice(_TOKEN.finditer(body), _MAX_TOKENS):
        token = found[0]
        kind = token[0]
        if kind == 0x22:  # quote
            if awaiting_key:
                if len(token) == 1:
                    break
                if len(closers) == 1:
                    key = token
                continue
            if len(token) == 1:
                if closers and (len(closers) > 1 or key in _LONG):
                    return body[: found.start()] + _whole(body, found.start()) + b'"' + closers[::-1]
                break
            safe, safe_depth = found.end(), len(closers)
        elif kind in b"{[":
            if len(closers) == _MAX_DEPTH:
                break
            closers.append(0x7D if kind == 0x7B else 0x5D)
            awaiting_key = kind == 0x7B
            safe, safe_depth = found.end(), len(closers)
        elif kind in b"}]":
            if not closers or closers.pop() != kind:
                break
            awaiting_key = False
            safe, safe_depth = found.end(), len(closers)
            if not closers:
                break
        elif kind == 0x2C:  # comma
            safe, safe_depth = found.start(), len(closers)
            awaiting_key = closers[-1:] == b"}"
        else:
            awaiting_key = False
    return body[:safe] + closers[:safe_depth][::-1] if safe else b"{}"


def _whole(body: bytes, start: int) -> bytes:
    """The string that begins at `start`, without its last character when that is cut."""
    found = _WHOLE.match(body, start)
    assert found is not None
    text = found[0]
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text[:-back] if back < size else text
        if byte < 0x80:
            break
    return text
