from __future__ import annotations

import sys
from struct import unpack

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.request import Prompt
from epp.parsing import blocks
from epp.parsing.blocks import HASH_BYTES, block_chain, block_hashes, root, rooted


def naive(data: bytes, size: int, max_blocks: int) -> bytes:
    hashes = [0]
    while data and len(hashes) <= max_blocks:
        hashes.append(xxhash.xxh64(data[:size], seed=hashes[-1]).intdigest())
        data = data[size:]
    return b"".join(one.to_bytes(8, "little") for one in hashes[1:])


@given(st.lists(st.binary(max_size=200), max_size=3), st.integers(1, 9), st.integers(0, 12))
def test_text_blocks(texts: list[bytes], block_tokens: int, max_blocks: int) -> None:
    hashes = block_hashes([Prompt(text=text) for text in texts], block_tokens, max_blocks)
    assert hashes == [naive(text, 4 * block_tokens, max_blocks) for text in texts]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60), st.integers(1, 9), st.integers(0, 12))
def test_token_blocks(ids: list[int], block_tokens: int, max_blocks: int) -> None:
    data = b"".join(i.to_bytes(4, "little") for i in ids)
    prompt = Prompt(tokens=np.array(ids, dtype=np.uint32))
    assert block_hashes([prompt], block_tokens, max_blocks) == [naive(data, 4 * block_tokens, max_blocks)]


@given(st.binary(max_size=400), st.integers(1, 40), st.integers(0, 12))
def test_both_ways_to_hash_agree(data: bytes, size: int, max_blocks: int) -> None:
    """The loop, and what is used here: the compiled function where there is one."""
    wanted = naive(data, size, max_blocks)
    assert block_chain(data, size, max_blocks) == wanted
    assert blocks._chain(data, size, max_blocks) == wanted
    assert blocks._chain(memoryview(data), size, max_blocks) == wanted


def test_no_limit() -> None:
    [chain] = block_hashes([Prompt(text=b"a" * 300)], 1, sys.maxsize)
    assert chain == naive(b"a" * 300, 4, 300)


def test_known_values_stay() -> None:
    # Other replicas and a compiled transport compute the same; a change here empties every index.
    [chain] = block_hashes([Prompt(text=b"a" * 300)], 64, 10)
    assert unpack("<2Q", chain) == (4967294065870344529, 2362957551631503801)
    assert root("base", "") == 17120121376587110814


def test_same_block_at_another_place_is_another_block() -> None:
    (chain,) = block_hashes([Prompt(text=b"x" * 64)], 4, 10)
    assert len(set(unpack("<4Q", chain))) == 4


def test_root_tells_models_and_salts_apart() -> None:
    roots = {root(m, s) for m in ("", "a", "b", "ab") for s in ("", "a", "b", "ab")}
    assert len(roots) == 16
    assert root("", "") == 0
    assert root("a\udcff", "") != root("a", "")


def test_a_root_changes_where_a_chain_begins() -> None:
    [chain] = block_hashes([Prompt(text=b"x" * 64)], 4, 10)
    chains = {rooted(chain, start) for start in (0, 1, root("a", ""), root("a", "salt"))}
    assert len({one[:HASH_BYTES] for one in chains}) == 4
    assert {one[HASH_BYTES:] for one in chains} == {chain[HASH_BYTES:]}
    assert rooted(chain[:HASH_BYTES], 1) == rooted(chain, 1)[:HASH_BYTES]
    assert rooted(b"", 1) == b""


def test_empty_prompt_and_bad_size() -> None:
    assert block_hashes([Prompt()], 64, 10) == [b""]
    with pytest.raises(ValueError, match="positive"):
        block_hashes([], 0, 10)
