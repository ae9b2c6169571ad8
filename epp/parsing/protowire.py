"""Protobuf wire format, as much as is needed to read a few known fields of a foreign message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
LENGTH: Final = 2
_FIXED: Final = {1: 8, 5: 4}


class Broken(ValueError):  # noqa: N818 - reads as what it says
    """Not a protobuf message."""


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """(value, next offset)."""
    value = shift = 0
    for here in range(at, min(at + 10, len(data))):
        byte = data[here]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, here + 1
        shift += 7
    raise Broken("cut or overlong varint")


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of every varint and length-delimited field; fixed ones are skipped. Raises Broken."""
    at, end = 0, len(data)
    while at < end:
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise Broken("field number 0")
        if kind == VARINT:
            value, at = varint(data, at)
            yield number, value
        elif kind == LENGTH:
            size, at = varint(data, at)
            if size > end - at:
                raise Broken("field longer than its message")
            yield number, data[at : at + size]
            at += size
        elif kind in _FIXED:
            at += _FIXED[kind]
            if at > end:
                raise Broken("field longer than its message")
        else:
            raise Broken(f"wire type {kind}")
