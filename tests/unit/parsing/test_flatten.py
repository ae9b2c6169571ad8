"""A conversation's text must begin with the text of its earlier turns, or no cache is found."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from epp.parsing.blocks import HASH_BYTES, block_hashes
from tests.unit.parsing.bodies import CHAT, MESSAGES, RESPONSES, TEXT, parse, text

ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
PARTS = st.one_of(
    st.builds(lambda t: {"type": "text", "text": t}, TEXT),
    st.builds(lambda t: {"type": "image_url", "image_url": {"url": t}}, TEXT),
    st.builds(lambda t: {"type": "input_audio", "input_audio": {"data": t, "format": "wav"}}, TEXT),
    TEXT,
)
CONTENT = st.none() | TEXT | st.lists(PARTS, max_size=3)
CALLS = st.none() | st.lists(st.builds(lambda t: {"function": {"arguments": t}}, TEXT), max_size=2)
TURNS = st.lists(
    st.builds(lambda r, c, t: {"role": r, "content": c, "tool_calls": t}, ROLES, CONTENT, CALLS), max_size=6
)
ITEMS = st.lists(
    st.one_of(
        st.builds(lambda r, c: {"role": r, "content": c}, ROLES, TEXT),
        st.builds(lambda n, a: {"type": "function_call", "name": n, "arguments": a}, TEXT, TEXT),
        st.builds(lambda o: {"type": "function_call_output", "output": o}, TEXT),
    ),
    max_size=6,
)
BLOCKS = st.one_of(
    st.builds(lambda t: {"type": "text", "text": t}, TEXT),
    st.builds(lambda t: {"type": "thinking", "thinking": t}, TEXT),
    st.builds(lambda n, t: {"type": "tool_use", "name": n, "input": {"a": t}}, TEXT, TEXT),
    st.builds(lambda t: {"type": "tool_result", "content": [{"type": "text", "text": t}]}, TEXT),
    st.builds(lambda t: {"type": "image", "source": {"type": "base64", "data": t}}, TEXT),
)
ANTHROPIC = st.lists(
    st.builds(lambda r, c: {"role": r, "content": c}, ROLES, TEXT | st.lists(BLOCKS, max_size=3)), max_size=6
)


def assert_prefix(path: str, field: str, turns: list[Any], tools: Any) -> None:
    before = b""
    for n in range(len(turns) + 1):
        body = {field: turns[:n], "max_tokens": n, "tools": tools, "model": f"m{n}"}
        flat = text(parse(path, body))
        assert flat.startswith(before)
        before = flat


TOOLS = st.none() | st.lists(st.builds(lambda t: {"name": t}, TEXT), max_size=2)


@given(TURNS, TOOLS)
def test_chat_turns_are_prefixes(turns: list[Any], tools: Any) -> None:
    assert_prefix(CHAT, "messages", turns, tools)


@given(ITEMS, TOOLS)
def test_responses_turns_are_prefixes(turns: list[Any], tools: Any) -> None:
    assert_prefix(RESPONSES, "input", turns, tools)


@given(ANTHROPIC, TOOLS)
def test_anthropic_turns_are_prefixes(turns: list[Any], tools: Any) -> None:
    assert_prefix(MESSAGES, "messages", turns, tools)


def test_next_turn_shares_all_whole_blocks() -> None:
    turns = [{"role": "user", "content": "x" * 5000}, {"role": "assistant", "content": "y" * 700}]
    first = parse(CHAT, {"model": "m", "messages": turns[:1]})
    second = parse(CHAT, {"messages": turns, "model": "m"})
    (a,), (b,) = block_hashes(first.prompts, 64, 2048), block_hashes(second.prompts, 64, 2048)
    whole = 19 * HASH_BYTES
    assert len(a) == whole + HASH_BYTES
    assert a[:whole] == b[:whole]
    assert a[whole:] != b[whole : len(a)]


def test_how_json_writes_the_text_does_not_matter() -> None:
    plain = parse(CHAT, '{"model":"m","messages":[{"role":"user","content":"é/\\n日"}]}'.encode())
    spelt = parse(CHAT, b'{"model":"m", "messages":[{"content":"\\u00e9\\/\\u000a\\u65e5","role":"user"} ]}')
    assert text(plain) == text(spelt)
