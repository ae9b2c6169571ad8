from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.request import Prompt
from epp.parsing.blocks import block_hashes

native = pytest.importorskip("inference_epp_native")


def chain(data: object, block_bytes: int, max_blocks: int) -> list[int]:
    found: bytes = native.block_chain(data, block_bytes, max_blocks)
    return list(struct.unpack(f"<{len(found) // 8}Q", found))


@given(st.binary(max_size=600), st.integers(1, 20), st.integers(0, 40))
def test_texts_have_the_same_chain(text: bytes, block_tokens: int, max_blocks: int) -> None:
    expected = block_hashes([Prompt(text=text)], block_tokens, max_blocks)[0]
    for data in (text, bytearray(text), memoryview(text)):
        assert chain(data, 4 * block_tokens, max_blocks) == expected


@given(st.lists(st.integers(0, 2**32 - 1), max_size=200), st.integers(1, 20), st.integers(0, 40))
def test_tokens_have_the_same_chain(ids: list[int], block_tokens: int, max_blocks: int) -> None:
    tokens = np.array(ids, dtype="<u4")
    expected = block_hashes([Prompt(tokens=tokens)], block_tokens, max_blocks)[0]
    assert chain(tokens, 4 * block_tokens, max_blocks) == expected


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 1 << 20])
def test_long_texts_have_the_same_chain(size: int) -> None:
    text = bytes(n % 251 for n in range(size))
    assert chain(text, 256, 2048) == block_hashes([Prompt(text=text)], 64, 2048)[0]


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
