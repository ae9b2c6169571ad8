"""Reading answers: streamed in any pieces, whole, broken."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.load.answers import MAX_EVENT_BYTES, Answer
from tests.unit.load.engine import DONE, event, token, usage

ROLE = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
WHOLE = (
    ROLE + b": a comment\r\n\r\n" + token("Hé") + token(" you") + token("", "stop") + usage(12, 2, 8) + DONE
)


def read(*pieces: bytes) -> Answer:
    """The i-th piece arrives at i seconds."""
    answer = Answer(stream=True)
    for at, piece in enumerate(pieces):
        answer.feed(piece, float(at))
    answer.finish()
    return answer


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_any_split_reads_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    answer = read(*(WHOLE[a:b] for a, b in pairwise(edges)))
    assert (answer.text, answer.error, answer.token_chunks) == ("Hé you", "", 2)
    assert (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens) == (12, 2, 8)
    assert len(answer.gaps) == 1


def test_times_are_of_chunks_that_carry_tokens() -> None:
    answer = read(ROLE, token("a"), b": keep-alive\n\n", token("b"), token("c"), token("", "stop"), DONE)
    assert answer.first_token_at == 1.0
    assert list(answer.gaps) == [2.0, 1.0]


def test_without_usage_chunks_are_counted() -> None:
    answer = read(token("a"), token("b", "length"))
    assert (answer.output_tokens, answer.cached_tokens, answer.prompt_tokens) == (2, None, None)


def test_reasoning_and_tool_calls_are_tokens_but_not_the_text() -> None:
    thought = event(choices=[{"delta": {"reasoning_content": "hm"}}])
    called = event(choices=[{"delta": {"tool_calls": [{"function": {"arguments": "{"}}]}}])
    answer = read(thought, called, token("so", "stop"))
    assert (answer.token_chunks, answer.text, answer.first_token_at) == (3, "so", 0.0)


def test_completions_and_further_choices() -> None:
    pieces = [event(choices=[{"index": i, "text": t}]) for i, t in ((0, "a"), (1, "z"), (0, "b"))]
    answer = read(*pieces, DONE)
    assert (answer.text, answer.token_chunks) == ("ab", 3)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (token("a"), "cut-short"),
        (b"", "cut-short"),
        (token("a") + b'data: {"error": {"message": "out of memory"}}\n\n' + DONE, "error-in-stream"),
        (b"data: {broken\n\n", "bad-answer"),
        (b'data: {"choices": 3}\n\n', "bad-answer"),
        (b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n', "bad-answer"),
        (b"data: " + b"x" * (MAX_EVENT_BYTES + 1), "answer-too-long"),
    ],
)
def test_what_is_no_whole_answer_is_an_error(body: bytes, error: str) -> None:
    assert read(body).error == error


def whole(document: object) -> Answer:
    answer = Answer(stream=False)
    data = json.dumps(document).encode()
    for start in range(0, len(data), 7):
        answer.feed(data[start : start + 7], 1.0)
    answer.finish()
    return answer


def test_a_plain_answer_has_text_and_usage_but_no_token_times() -> None:
    counts = {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    chat = whole({"choices": [{"message": {"content": "fine"}}], "usage": counts})
    assert (chat.text, chat.error, chat.output_tokens, chat.cached_tokens) == ("fine", "", 3, 4)
    assert chat.first_token_at is None
    assert whole({"choices": [{"text": "done"}], "usage": counts}).text == "done"
    assert whole({"choices": [{"message": {"content": None}}]}).text == ""


@pytest.mark.parametrize(
    ("document", "error"), [([], "bad-answer"), ({"error": {"message": "no"}}, "error-in-answer")]
)
def test_a_plain_answer_can_be_wrong(document: object, error: str) -> None:
    assert whole(document).error == error


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    assert read(data, b"\n\n").error or b"[DONE]" in data
    plain = Answer(stream=False)
    plain.feed(data, 0.0)
    plain.finish()
    assert plain.text == "" or not plain.error
