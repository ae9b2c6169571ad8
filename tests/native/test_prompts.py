"""What the compiled scan says of a prompt is what Python says; of any other body it says nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from epp.domain.errors import Refused
from epp.domain.request import Api, Request, RequestHead, Scanned
from epp.parsing.openai import parse_chat, parse_completions
from epp.parsing.scanned import parse_scanned
from tests.unit.parsing.bodies import JSON_VALUES, TEXT

native = pytest.importorskip("inference_epp_native")

HEAD = RequestHead({}, "POST", "/v1/chat/completions", "test", 0.0)
PARSE = {Api.CHAT: parse_chat, Api.COMPLETIONS: parse_completions}
APIS = st.sampled_from(list(PARSE))
MODEL = {"model": "m"}


def of_python(api: Api, body: bytes, block_bytes: int, max_blocks: int) -> tuple[bytes, int] | None:
    try:
        prompts = PARSE[api](HEAD, body, False).prompts
    except Refused:
        return None
    if len(prompts) != 1 or prompts[0].tokens is not None:
        return None
    text = prompts[0].text
    above, hashes = 0, b""
    for start in range(0, min(len(text), block_bytes * max_blocks), block_bytes):
        above = xxh64_intdigest(text[start : start + block_bytes], above)
        hashes += above.to_bytes(8, "little")
    return hashes, len(text)


def scanned(
    api: Api, body: bytes, cuts: Sequence[int] = (), block_bytes: int = 16, max_blocks: int = 1 << 20
) -> tuple[bytes, int] | None:
    """Asserts that the scan agrees with Python or says nothing."""
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    pieces = [body[a:b] for a, b in pairwise(places)]
    found = native.scan_prompt(api, pieces, block_bytes, max_blocks)
    if found is None:
        return None
    seen = Scanned(*found)
    assert (seen.chain, seen.text_bytes) == of_python(api, body, block_bytes, max_blocks)
    assert (seen.block_bytes, seen.max_blocks) == (block_bytes, max_blocks)
    parsed_alike(parse_scanned(PARSE[api], HEAD, body, seen), PARSE[api](HEAD, body, False))
    return seen.chain, seen.text_bytes


def parsed_alike(made: Request, whole: Request) -> None:
    """What was parsed of the rest is what is parsed of the whole body."""
    assert [prompt.text for prompt in made.prompts] == [prompt.text for prompt in whole.prompts]
    made.prompts = whole.prompts
    assert made == whole


def spread(*members: dict[str, Any]) -> dict[str, Any]:
    return {key: value for some in members for key, value in some.items()}


TEXTS = TEXT | st.text(max_size=60) | st.text("aé日🙂", min_size=30, max_size=60)
PARTS = st.lists(TEXTS | st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=4)
CALLS = st.sampled_from((None, [], [{"id": "c", "function": {"name": "f", "arguments": '{"a": "\u00e9"}'}}]))
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "content": TEXTS | PARTS | st.none(), "tool_calls": CALLS, "name": TEXT, "refusal": st.none(),
            "tool_call_id": TEXT, "extra": JSON_VALUES,
        },
    ).flatmap(
        lambda rest: st.sampled_from(("system", "user", "assistant", "tool", "")).map(
            lambda role: {"role": role, **rest}
        )
    ),
    max_size=5,
)  # fmt: skip
LIMITS = st.integers(0, 10**14) | st.none()
PLAIN = st.fixed_dictionaries(
    {"model": TEXT.filter(bool)},
    optional={
        "stream": st.booleans() | st.none(),
        "cache_salt": TEXT,
        "max_tokens": LIMITS,
        "x": JSON_VALUES,
    },
)
CUTS = st.lists(st.integers(0, 400), max_size=12)
SIZES = st.integers(1, 40)
DUMPS = st.sampled_from(
    ({}, {"ensure_ascii": False}, {"separators": (",", ":"), "ensure_ascii": False}, {"indent": 1})
)


@given(
    PLAIN, MESSAGES, st.none() | CALLS, DUMPS, CUTS, SIZES, st.sampled_from((0, 1, 3, 1 << 20)), st.booleans()
)
def test_plain_chats(
    plain: dict[str, Any],
    messages: list[Any],
    tools: list[Any] | None,
    dumps: dict[str, Any],
    cuts: Sequence[int],
    block_bytes: int,
    max_blocks: int,
    first: bool,
) -> None:
    chat = {"tools": tools, "messages": messages}
    body = json.dumps(spread(plain, chat) if first else spread(chat, plain), **dumps).encode()
    assert scanned(Api.CHAT, body, cuts, block_bytes, max_blocks) is not None


@given(PLAIN, TEXTS, DUMPS, CUTS, SIZES)
def test_plain_completions(
    plain: dict[str, Any], prompt: str, dumps: dict[str, Any], cuts: Sequence[int], block_bytes: int
) -> None:
    body = json.dumps(spread({"prompt": prompt}, plain), **dumps).encode()
    assert scanned(Api.COMPLETIONS, body, cuts, block_bytes) is not None


NAMES = (
    "model", "messages", "prompt", "tools", "stream", "cache_salt", "max_tokens", "max_completion_tokens",
    "role", "content", "text", "type", "tool_calls", "name", "arguments", "output", "summary", "image_url",
    "refusal", "thinking", "prompt_embeds",
)  # fmt: skip
ODD = (
    b"", b"null", b"true", b"tru", b"1", b"-1", b"1.0", b"1.5", b"1e3", b"01", b"1" * 60, b'""', b'"a"',
    b'"\xff"', b'"\\ud83d"', b'"\\ud83d\\ude42"', b'"\x01"', b'"\\x"', b'"\xc3', b"[]", b"[ ]", b"{}", b"{",
    b"]", b",", b"[1]", b'["a","b"]', b'["\xc3","\xa9"]', b'[{"role":"user","content":"x"}]',
    b'[{"content":"x","role":"user"}]', b'[{"role":"a","role":"b"}]', b"[null]", b"[" * 70,
    b"[" * 70 + b"]" * 70, b'[{"role":"user","content":[{"text":null}]}]',
    b'[{"role":"user","content":[{"image_url":"x"}]}]',
)  # fmt: skip

SIGNS = (b'"', b",", b"{", b"]", b"\\", b"\xa9", b"\xc3", b"x", b"\0")


@given(APIS, PLAIN, MESSAGES, TEXTS, DUMPS, CUTS, st.data())
def test_odd_bodies(
    api: Api,
    plain: dict[str, Any],
    messages: list[Any],
    prompt: str,
    dumps: dict[str, Any],
    cuts: Sequence[int],
    data: st.DataObject,
) -> None:
    body = json.dumps(spread(plain, {"messages": messages, "prompt": prompt}), **dumps).encode()
    for _ in range(data.draw(st.integers(1, 2))):
        kind = data.draw(st.sampled_from(("member", "byte", "cut", "again")))
        if kind == "member":
            name = data.draw(st.sampled_from(NAMES)).encode()
            at = data.draw(st.sampled_from([n for n, byte in enumerate(body) if byte == 0x7B] or [0])) + 1
            more = b"," if body[at:].lstrip()[:1] != b"}" else b""
            value = data.draw(st.sampled_from(ODD))
            body = body[:at] + b'"' + name + b'":' + value + more + body[at:]
        elif kind == "byte":
            at = data.draw(st.integers(0, len(body)))
            body = body[:at] + data.draw(st.sampled_from(SIGNS)) + body[at + 1 :]
        elif kind == "cut":
            body = body[: data.draw(st.integers(0, len(body)))]
        else:
            body += data.draw(st.sampled_from((b" ", b"\n", b"x", b"{}", b"\0")))
    scanned(api, body, cuts)


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_odd_members(value: bytes) -> None:
    for name in NAMES:
        member = b'"%s":%s' % (name.encode(), value)
        for api in PARSE:
            scanned(api, b'{%s,"model":"m","messages":[],"prompt":"p"}' % member)
            scanned(api, b'{"model":"m","messages":[],"prompt":"p",%s}' % member)
            scanned(api, b'{"model":"m",%s}' % member)
            scanned(api, b'{"model":"m","messages":[{"role":"user",%s}]}' % member)
            scanned(api, b'{"model":"m","messages":[{%s,"role":"user"}]}' % member)
            scanned(
                api,
                b'{"model":"m","messages":[{"role":"user","content":[{"text":"t",%s}, %s]}]}'
                % (member, value),
            )
            scanned(api, b'{"model":"m","messages":[{"role":"user","content":[{%s}]}]}' % member)


@pytest.mark.parametrize("filling", ["a", "é", "日", "x🙂", "ab\n", '"', "{"])
@pytest.mark.parametrize("step", [1, 1000, 4097, 1 << 30])
def test_long_bodies(filling: str, step: int) -> None:
    size = 20_000 if step == 1 else 120_000
    texts = ["y" + filling * (size // len(filling)), filling * 9, filling * 40_000]
    messages = [{"role": "user", "content": text} for text in texts]
    body = json.dumps({**MODEL, "messages": messages}, ensure_ascii=False).encode()
    found = scanned(Api.CHAT, body, range(0, len(body), step), 256, 100)
    assert (found is None) == (body.count(b"{") > 50_000)
    scanned(Api.CHAT, body, range(0, len(body), step), 1 << 15)
    scanned(Api.CHAT, body.replace(filling.encode()[-1:], b"\xff"), range(0, len(body), step))


def test_small_values_beyond_count_are_left() -> None:
    parts = b",".join([b'"a"'] * 210_000)
    body = b'{"model":"m","messages":[{"role":"user","content":[%s,"%s"]}]}' % (parts, b"x" * (1 << 20))
    assert scanned(Api.CHAT, body) is None


def test_tools_after_messages_are_left() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":%s}'
    assert scanned(Api.CHAT, body % b'[{"a":1}]') is None
    assert scanned(Api.CHAT, body % b"[]") is not None
    assert scanned(Api.CHAT, body % b"null") is not None


def test_no_blocks_and_other_bodies() -> None:
    assert native.scan_prompt("chat", [b'{"model":"m","messages":[]}'], 0, 9) is None
    assert native.scan_prompt("chat", [b'{"model":"m","messages":[]}'], 2**63, 9) is None
    assert native.scan_prompt("responses", [b'{"model":"m","input":"x"}'], 4, 9) is None
    found = native.scan_prompt("chat", [b'{"model":"m","messages":[]}'], 4, 9)
    assert found == (b"", 0, 4, 9, b'{"model":"m","messages":[]}', 24, 2)
