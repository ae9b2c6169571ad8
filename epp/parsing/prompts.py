"""The value of `prompt`, `input`, `token_ids` and their kin: strings, token ids, or lists of those."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

import msgspec
import numpy as np

from epp.domain.request import Prompt
from epp.parsing.body import MANY_STRINGS_BYTES, MAX_QUOTES, decode, has_more
from epp.parsing.rawjson import opening

Token: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]

MAX_TOKENS: Final = 2_000_000
"""Ids in one body; no engine has such a context, and above it the ids' JSON is hashed instead."""
MAX_PROMPTS: Final = 8192
"""In one body; above it they are hashed as one."""

_STRING: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_STRINGS: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])
_TOKENS: msgspec.json.Decoder[list[Token]] = msgspec.json.Decoder(list[Token])
_TOKEN_LISTS: msgspec.json.Decoder[list[list[Token]]] = msgspec.json.Decoder(list[list[Token]])
_OPENING: Final = re.compile(rb"\[\s*(.)", re.DOTALL)


def prompts_of(raw: msgspec.Raw, field: str) -> tuple[Prompt, ...]:
    """One Prompt for a string or a list of token ids, one for each element of a list of those.

    Every element is prefilled and cached by itself. A list of objects (some embedding APIs) is one
    prompt, its JSON.
    """
    value = memoryview(raw)
    if opening(value) != b"[":
        return (Prompt(text=decode(_STRING, value, at=field).encode()),)
    found = _OPENING.match(value)
    first = found[1] if found else b""
    if first == b"{" or (len(value) > MANY_STRINGS_BYTES and _too_many(value, first)):
        return (Prompt(text=bytes(value)),)
    if first == b'"':
        texts = decode(_STRINGS, value, at=field)
        if len(texts) <= MAX_PROMPTS:
            return tuple([Prompt(text=text.encode()) for text in texts])
        return (Prompt(text=bytes(value)),)
    if first == b"[":
        lists = decode(_TOKEN_LISTS, value, at=field)
        if len(lists) <= MAX_PROMPTS:
            return tuple([token_prompt(ids) for ids in lists])
        return (Prompt(text=bytes(value)),)
    if first == b"]":
        return ()
    return (token_prompt(decode(_TOKENS, value, at=field)),)


def token_prompt(ids: list[int]) -> Prompt:
    return Prompt(tokens=np.array(ids, dtype=np.uint32))


def _too_many(value: memoryview, first: bytes) -> bool:
    if first == b'"':
        return has_more(value, b'"', MAX_QUOTES)
    return has_more(value, b"[", MAX_PROMPTS) or has_more(value, b",", MAX_TOKENS)
