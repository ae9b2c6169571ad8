from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from epp.parsing.rewrite import ModelRestorer, splice_model
from tests.unit.parsing.bodies import CHAT, JSON_VALUES, SAMPLES, TEXT, encoded, parse

STAND_IN = {"x-llm-d-model-name-rewrite": "t"}


@given(TEXT.filter(bool), TEXT, st.dictionaries(TEXT, JSON_VALUES, max_size=3), st.booleans(), st.data())
def test_splice_changes_the_model_alone(
    model: str, new: str, more: dict[str, object], ascii_only: bool, data: st.DataObject
) -> None:
    body = {**more, "messages": [{"role": "user", "content": json.dumps({"model": model})}]}
    keys = data.draw(st.permutations([*body, "model"]))
    body["model"] = model
    raw = encoded({key: body[key] for key in keys}, ascii_only=ascii_only)
    raw += b" " * data.draw(st.sampled_from([0, 5000]))  # short and long bodies are searched differently
    request = parse(CHAT, raw)
    assert request.model_span is not None
    start, end = request.model_span
    assert json.loads(raw[start:end]) == model
    spliced = splice_model(raw, request.model_span, new)
    assert (spliced[:start], spliced[len(spliced) - len(raw) + end :]) == (raw[:start], raw[end:])
    assert json.loads(spliced) == {**body, "model": new}


@pytest.mark.parametrize("path", [path for path in SAMPLES if path != "/generate"])
def test_every_api_can_be_spliced(path: str) -> None:
    raw = encoded({"a": "base", **SAMPLES[path], "z": "base"})
    spliced = splice_model(raw, parse(path, raw).model_span, "other")
    assert json.loads(spliced) == {"a": "base", **SAMPLES[path], "z": "base", "model": "other"}


@pytest.mark.parametrize("given_model", [{}, {"model": None}, {"model": ""}])
def test_model_is_written_where_there_was_none(given_model: dict[str, object]) -> None:
    raw = b" " + encoded({"messages": [], **given_model})
    request = parse(CHAT, raw, headers=STAND_IN)
    assert json.loads(splice_model(raw, request.model_span, "t")) == {"messages": [], "model": "t"}


def test_no_place_leaves_the_body_alone() -> None:
    raw = encoded(SAMPLES["/generate"])
    assert splice_model(raw, parse("/generate", raw).model_span, "other") == raw
    assert splice_model(b"{ }", (1, 1), "m") == b'{"model":"m" }'


def test_form_field_takes_no_line_break() -> None:
    assert splice_model(b"..base..", (2, 6), "a b") == b"..a b.."
    with pytest.raises(ValueError, match="line breaks"):
        splice_model(b"..base..", (2, 6), "a\r\nb")


def naive(data: bytes, target: str, incoming: str) -> bytes:
    old, new = (json.dumps(name, ensure_ascii=False).encode() for name in (target, incoming))
    return re.sub(rb'"model":( ?)' + re.escape(old), lambda found: b'"model":' + found[1] + new, data)


FRAGMENTS = st.sampled_from(
    [b'"model":', b'"model": ', b'"model"', b'"mo', b'"', b'"base"', b'"model":"base"', b'"model": "base"',
     b"base", b'"b', b"\n", b"x", b'"model":"bas', b'e"', b'\\"']
)  # fmt: skip


@given(st.lists(FRAGMENTS, max_size=10), st.lists(st.integers(0, 60), max_size=8))
@example([b'"model":"base"'] * 2, [1, 9, 15])
@example([b'"model":', b'"', b"base", b'"model":"base"'], [])
def test_names_are_restored_however_the_answer_is_split(fragments: list[bytes], cuts: list[int]) -> None:
    data = b"".join(fragments)
    restorer = ModelRestorer("base", "the \\ alias")
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in pairwise(places)]
    out, fed = b"", 0
    for piece in pieces:
        sent = restorer.feed(piece, False)
        fed += len(piece)
        out += sent
        assert len(out) >= len(naive(data[:fed], "base", "the \\ alias")) - len('"model": "base"')
    out += restorer.feed(b"", True)
    assert out == naive(data, "base", "the \\ alias")


def test_nothing_is_held_of_a_whole_event() -> None:
    restorer = ModelRestorer("base", "alias")
    assert restorer.feed(b'data: {"model":"base","x":"', False) == b'data: {"model":"alias","x":'
    assert restorer.feed(b'y"}\n\n', False) == b'"y"}\n\n'


@pytest.mark.parametrize(("target", "incoming"), [("a", "a"), ("", "a"), ("a", "")])
def test_nothing_to_restore(target: str, incoming: str) -> None:
    data = b'"model":"a","model":"'
    assert ModelRestorer(target, incoming).feed(data, False) is data
