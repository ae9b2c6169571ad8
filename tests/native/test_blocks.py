from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

native = pytest.importorskip("inference_epp_native")


def chain(data: object, block_bytes: int, max_blocks: int) -> list[int]:
    found: bytes = native.block_chain(data, block_bytes, max_blocks)
    return list(struct.unpack(f"<{len(found) // 8}Q", found))


def expected(data: bytes, block_bytes: int, max_blocks: int) -> list[int]:
    hashes: list[int] = []
    for start in range(0, min(len(data), block_bytes * max_blocks), block_bytes):
        hashes.append(xxh64_intdigest(data[start : start + block_bytes], hashes[-1] if hashes else 0))
    return hashes


@given(st.binary(max_size=600), st.integers(1, 80), st.integers(0, 40))
def test_texts_have_the_same_chain(text: bytes, block_bytes: int, max_blocks: int) -> None:
    for data in (text, bytearray(text), memoryview(text)):
        assert chain(data, block_bytes, max_blocks) == expected(text, block_bytes, max_blocks)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=200), st.integers(1, 80), st.integers(0, 40))
def test_tokens_have_the_same_chain(ids: list[int], block_bytes: int, max_blocks: int) -> None:
    tokens = np.array(ids, dtype="<u4")
    assert chain(tokens, block_bytes, max_blocks) == expected(tokens.tobytes(), block_bytes, max_blocks)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 1 << 20])
def test_long_texts_have_the_same_chain(size: int) -> None:
    text = bytes(n % 251 for n in range(size))
    assert chain(text, 256, 2048) == expected(text, 256, 2048)


def test_what_is_no_block_or_no_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        native.block_chain(b"x", 0, 1)
    with pytest.raises(BufferError, match="contiguous"):
        native.block_chain(memoryview(b"abcd")[::2], 4, 1)
    with pytest.raises(TypeError):
        native.block_chain("text", 4, 1)
    with pytest.raises(OverflowError):
        native.block_chain(b"x", -1, 1)
    assert native.block_chain(b"x", 2**63, 2**63) == native.block_chain(b"x", 4, 1)
