"""What is asked: traces, shared prefixes, chats, mixes."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.load.arrivals import constant
from epp.load.calls import Call, Endpoint, Manner, Mix
from epp.load.conversations import ANSWER_TOKENS, FIRST_TOKENS, Chat, Conversations, Shape, scaled
from epp.load.lengths import Fixed
from epp.load.text import BYTES_PER_TOKEN
from epp.load.traces import BLOCK_TOKENS, Entry, Replay, TraceError, prompt, read
from epp.load.workload import RandomPrompts, SharedPrefixes, arrive

ONE = Mix(("m",), (1.0,))
MANNER = Manner(ONE)


def body(call: Call) -> Any:
    return json.loads(call.body)


ids = st.lists(st.integers(0, 6), min_size=1, max_size=6)


@given(left=ids, right=ids, cut=st.integers(1, BLOCK_TOKENS))
def test_equal_ids_are_equal_text_and_nothing_else(left: list[int], right: list[int], cut: int) -> None:
    texts = []
    for hashes in (left, right):
        length = (len(hashes) - 1) * BLOCK_TOKENS + cut
        text = prompt(Entry(0, length, 1, tuple(hashes)))
        assert len(text) == length * BYTES_PER_TOKEN
        texts.append(text)
    shared = 0
    while shared < min(len(left), len(right)) and left[shared] == right[shared]:
        shared += 1
    size = BLOCK_TOKENS * BYTES_PER_TOKEN
    both = min(len(text) for text in texts)
    assert texts[0][: min(shared * size, both)] == texts[1][: min(shared * size, both)]
    if shared < min(len(left), len(right)):
        assert texts[0][shared * size :][:40] != texts[1][shared * size :][:40]


def test_a_trace_with_too_few_ids_is_filled_with_text_of_its_own() -> None:
    long, short = Entry(5, 2000, 1, (1,)), Entry(5, 600, 1, (1,))
    assert len(prompt(long)) == 2000 * BYTES_PER_TOKEN
    assert prompt(long).startswith(prompt(short))
    assert prompt(Entry(1, 40, 1))[:16] != prompt(Entry(2, 40, 1))[:16]


def test_replay_keeps_times_lengths_and_order(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 3000, "input_length": 600, "output_length": 7, "hash_ids": [1, 2]},
        {"timestamp": 1000, "input_length": 10, "output_length": 0, "hash_ids": [1]},
    ]
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    arrivals = list(Replay(MANNER, 0, list(read(file)), speed=4).arrivals())
    assert [arrival.at for arrival in arrivals] == [0.0, 0.5]
    calls = [arrival.session.first() for arrival in arrivals]
    assert [call.input_tokens for call in calls] == [10, 600]
    assert [body(call)["max_tokens"] for call in calls] == [1, 7]
    assert arrivals[0].session.after("anything") is None


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"timestamp": 1}', '{"timestamp":0,"input_length":0,"output_length":1}',
     '{"timestamp":-1,"input_length":5,"output_length":1}',
     '{"timestamp":0,"input_length":1e9,"output_length":1}',
     '{"timestamp":0,"input_length":5,"output_length":1,"hash_ids":["a"]}', "\udc80"],
)  # fmt: skip
def test_a_broken_trace_is_named_by_file_and_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "t.jsonl"
    good = '{"timestamp":0,"input_length":5,"output_length":1}\n'
    file.write_text(good + line + "\n", encoding="utf-8", errors="surrogateescape")
    with pytest.raises(TraceError, match=r"t\.jsonl:2: "):
        list(read(file))


def test_shared_prefixes_share_by_group_and_repeat_questions() -> None:
    groups = SharedPrefixes(MANNER, 3, 2, Fixed(16), Fixed(5), prompts=2, system_tokens=32)
    made = [body(a.session.first())["messages"] for a in islice(arrive(constant(1), 3, groups.make), 40)]
    systems = {messages[0]["content"] for messages in made}
    assert len(systems) == 2
    assert len({(m[0]["content"], m[1]["content"]) for m in made}) == 4
    assert all(len(s) == 32 * BYTES_PER_TOKEN for s in systems)


def test_random_prompts_differ_behind_their_shared_prefix() -> None:
    prompts = RandomPrompts(MANNER, 0, Fixed(20), Fixed(3), shared_tokens=10)
    first, second = (
        body(a.session.first())["messages"][0]["content"]
        for a in islice(arrive(constant(1), 0, prompts.make), 2)
    )
    assert first[:40] == second[:40]
    assert first[40:60] != second[40:60]
    assert len(first) == 30 * BYTES_PER_TOKEN


def chat(shape: Shape, seed: int = 0, endpoint: Endpoint = Endpoint.CHAT) -> Chat:
    return Conversations(Manner(ONE, endpoint), seed, shape).make(4, Random(f"{seed}/4"))


SMALL = scaled(Shape(min_turns=3, max_turns=6), 0.02, 0.01)


def test_a_turn_holds_the_last_prompt_and_the_real_answer() -> None:
    talk = chat(SMALL)
    messages = body(talk.first())["messages"]
    assert [m["role"] for m in messages] == ["system", "user"]
    turns = 1
    while (following := talk.after(f"answer {turns}")) is not None:
        pause, call = following
        assert pause > 0
        grown = body(call)["messages"]
        assert grown[: len(messages)] == messages
        assert grown[len(messages)] == {"role": "assistant", "content": f"answer {turns}"}
        assert grown[-1]["role"] == "user"
        assert len(grown) == len(messages) + 2
        messages = grown
        turns += 1
    assert 3 <= turns <= 6


def test_completions_extend_the_text_itself() -> None:
    talk = chat(SMALL, endpoint=Endpoint.COMPLETIONS)
    before = body(talk.first())["prompt"]
    following = talk.after("and so it went ")
    assert following is not None
    assert body(following[1])["prompt"].startswith(before + "and so it went ")
    assert following[1].path == "/v1/completions"


def test_a_chat_without_an_answer_ends() -> None:
    talk = chat(SMALL)
    talk.first()
    assert talk.after("") is None


@given(seed=st.integers(0, 2000), limit=st.integers(100, 2000))
def test_no_chat_passes_its_context(seed: int, limit: int) -> None:
    talk = chat(Shape(system_tokens=20, max_context=limit, min_turns=20), seed)
    call = talk.first()
    assert call.input_tokens <= limit
    while (following := talk.after("x" * 100)) is not None:
        assert following[1].input_tokens <= limit


def test_a_seed_repeats_its_chats_and_chats_do_not_disturb_each_other() -> None:
    def texts(seed: int, answers: int) -> list[bytes]:
        sessions = [
            a.session for a in islice(arrive(constant(1), seed, Conversations(MANNER, seed, SMALL).make), 4)
        ]
        for session in sessions[:answers]:
            session.first()
            session.after("answered")
        return [session.first().body for session in sessions[3:]]

    assert texts(1, 0) == texts(1, 3)
    assert texts(1, 0) != texts(2, 0)


def test_the_fitted_shape_is_drawn_as_measured() -> None:
    rng = Random(1)
    firsts = sorted(FIRST_TOKENS.draw(rng) for _ in range(4001))
    answers = sorted(ANSWER_TOKENS.draw(rng) for _ in range(4001))
    assert firsts[2000] == pytest.approx(5659, rel=0.1)
    assert answers[2000] == pytest.approx(350, rel=0.1)
    shape = Shape()
    turns = []
    for seed in range(3000):
        own, turn = Random(seed), 1
        while shape.goes_on(turn, own):
            turn += 1
        turns.append(turn)
    # 1 + .27 + .27 x .41 + ...; the hour of the trace has 1.48, its last chats being cut off.
    assert sum(turns) / len(turns) == pytest.approx(1.58, rel=0.06)


def test_mixes_set_model_and_headers_by_weight() -> None:
    manner = Manner(
        Mix.parse("base=3,lora-a=1"),
        objectives=Mix.parse("gold"),
        flows=Mix.parse("t1,t2"),
        headers={"x-a": "1"},
    )
    rng = Random(0)
    clients = [manner.client(rng) for _ in range(800)]
    assert sum(one.model == "lora-a" for one in clients) == pytest.approx(200, rel=0.2)
    assert all(one.headers["x-llm-d-inference-objective"] == "gold" for one in clients)
    assert {one.headers["x-llm-d-inference-fairness-id"] for one in clients} == {"t1", "t2"}
    assert all(one.headers["x-a"] == "1" for one in clients)
    assert "x-llm-d-inference-objective" not in MANNER.client(rng).headers


@pytest.mark.parametrize("text", ["", "a=b", "a=-1", "=1", "a=0", "a=0,b=0", "a=nan", "a=inf"])
def test_broken_mixes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write NAME=WEIGHT"):
        Mix.parse(text)


def test_a_call_is_put_as_the_manner_says() -> None:
    plain = Manner(ONE, stream=False, ignore_eos=False, extra={"temperature": 0.5}).client(Random(0))
    call = plain.call([], 9)
    assert body(call) == {"model": "m", "messages": [], "max_tokens": 9, "temperature": 0.5}
    assert not call.stream
    streamed = body(MANNER.client(Random(0)).call([], 9))
    assert streamed["stream_options"] == {"include_usage": True}
    assert streamed["ignore_eos"] is True
