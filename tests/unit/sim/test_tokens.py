"""Text to tokens: deterministic, prefixes kept, answers found again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.sim.tokens import Speech, chain_all, count, pack, pack_chat, pack_ids, root_of


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_equal_texts_begin_with_equal_tokens(text: bytes, more: bytes) -> None:
    whole = len(text) // 4 * 4
    assert pack(text)[:whole] == pack(text + more)[:whole] == text[:whole]
    assert count(pack(text)) == -(-len(text) // 4)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.sampled_from([1, 4, 16]))
def test_a_chain_has_one_key_for_every_full_block(ids: list[int], size: int) -> None:
    packed = pack_ids(ids)
    keys = chain_all(packed, size, root_of("", ""))
    assert len(keys) == len(ids) // size
    assert keys == chain_all(packed + b"more", size, root_of("", ""))[: len(keys)]
    for other in (("x", ""), ("", "x")):
        assert not set(keys) & set(chain_all(packed, size, root_of(*other)))


def test_a_key_depends_on_all_before_it() -> None:
    one = chain_all(pack(b"aaaabbbbccccdddd"), 2, 0)
    two = chain_all(pack(b"aaaaXbbbccccdddd"), 2, 0)
    assert one[0] != two[0]
    assert one[1] != two[1]


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.binary(max_size=30)), max_size=6)
)
def test_a_chat_that_goes_on_repeats_what_it_had(turns: list[tuple[str, bytes]]) -> None:
    speech = Speech(0)
    prompt = pack_chat(turns)
    answer = speech.answer(prompt, 7)
    following = pack_chat([*turns, ("assistant", answer), ("user", b"and?")])
    assert following.startswith(prompt + answer)


def test_a_preamble_stands_first() -> None:
    assert pack_chat([("user", b"hi")], b"tools").startswith(b"tools")


def test_ids_out_of_range() -> None:
    for wrong in (-1, 2**32):
        with pytest.raises(OverflowError):
            pack_ids([wrong])


@given(st.binary(max_size=30), st.integers(1, 20_000))
def test_answers(prompt: bytes, tokens: int) -> None:
    answer = Speech(5).answer(prompt, tokens)
    assert len(answer) == 4 * tokens
    assert answer == Speech(5).answer(prompt, tokens + 1)[:-4]
    text = answer.decode("ascii")
    assert json.loads(f'"{text}"') == text
    assert 1 <= Speech(5).natural_length(prompt) <= 8192
