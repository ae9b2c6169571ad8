"""Undecoded JSON values, as msgspec leaves them: views into the body, no copies."""

from __future__ import annotations

from typing import Final

import msgspec

NONE: Final = msgspec.Raw()
"""Default of a field that may be absent."""


def is_set(raw: msgspec.Raw) -> bool:
    """Neither absent nor null."""
    view = memoryview(raw)
    return len(view) > 0 and view[0] != 0x6E


def opening(raw: msgspec.Raw | memoryview) -> bytes:
    """The first byte, which tells the type; empty when absent."""
    return bytes(memoryview(raw)[:1])
