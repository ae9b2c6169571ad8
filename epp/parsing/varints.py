"""Packed varints -> numpy, without a Python loop over the tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def uint32s(packed: bytes) -> NDArray[np.uint32]:
    """Values of a packed `repeated uint32`, higher bits cut as protobuf does. ValueError when cut short."""
    raw = np.frombuffer(packed, np.uint8)
    if not len(raw):
        return np.zeros(0, np.uint32)
    ends = np.flatnonzero(raw < 0x80)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise ValueError("cut varint")
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    sizes = ends - starts + 1
    longest = int(np.max(sizes))
    if longest > 10:
        raise ValueError("overlong varint")
    values = np.zeros(len(ends), np.uint64)
    # Round k adds the k-th byte of every value that has one; ids of a vocabulary have at most three.
    for k in range(min(5, longest)):
        has = sizes > k
        values[has] |= (raw[starts[has] + k].astype(np.uint64) & 0x7F) << np.uint64(7 * k)
    return values.astype(np.uint32)
