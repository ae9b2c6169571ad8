"""The engine's scheduling, in round numbers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.sim.engine import Engine
from epp.sim.sequence import Finish, Phase, Rejected
from epp.sim.tokens import Speech
from tests.unit.sim.shapes import ROUND, chat_work, drain, engine, work


def test_an_idle_engine_prefills_then_decodes() -> None:
    one = engine()
    seq = one.add(work("a", prompt=10, output=3), 5.0)
    assert one.running == 1
    assert drain(one) == ["6.10 first a", "8.10 end a"]
    assert (seq.arrived_at, seq.scheduled_at, seq.first_token_at) == (5.0, 5.0, 6.1)
    assert seq.ended is Finish.LENGTH
    assert one.generated(seq) == 3
    assert one.kv.used == 0


def test_intake_passes_before_the_engine_sees_a_request() -> None:
    one = engine(intake_s=0.5)
    one.add(work("a", prompt=10, output=1), 0.0)
    assert (one.running, one.waiting, one.unfinished) == (0, 0, 1)
    assert drain(one) == ["1.60 first a", "1.60 end a"]


def test_a_long_prompt_is_chunked_and_shares_steps_with_decodes() -> None:
    one = engine()
    short = one.add(work("short", prompt=4, output=20), 0.0)
    one.advance()
    one.add(work("long", prompt=62, output=1), one.due - 0.5)
    tokens = []
    prefills = []
    while short.phase is not Phase.DONE:
        step = one.advance()
        prefills.append(step.prefill_tokens)
        tokens.append(short in step.tokens)
    assert all(tokens)  # a decode in every step
    assert prefills[:4] == [0, 31, 31, 0]  # 32 tokens a step, one of them the decode's
    assert sum(prefills) == 62


def test_chunks_cost_time() -> None:
    one = engine()
    one.add(work("a", prompt=62, output=1), 0.0)
    assert [round(one.advance().at, 2) for _ in range(2)] == [1.32, 2.62]


def test_a_shared_prefix_is_computed_once() -> None:
    one = engine()
    first = one.add(work("a", prompt=20, output=2, prefix="p"), 0.0)
    drain(one)
    second = one.add(work("b", prompt=26, output=2, prefix="p"), 10.0)
    step = one.advance()
    assert (first.cached_tokens, second.cached_tokens) == (0, 20)
    assert step.prefill_tokens == 6
    assert (one.counters.prefix_queries, one.counters.prefix_hits) == (46, 20)


def test_requests_of_one_batch_share_already() -> None:
    one = engine()
    one.add(work("blocker", prompt=4, output=2), 0.0)
    a = one.add(work("a", prompt=9, output=2, prefix="p"), 0.1)
    b = one.add(work("b", prompt=9, output=2, prefix="p"), 0.2)
    drain(one)
    assert a.scheduled_at == b.scheduled_at
    assert (a.cached_tokens, b.cached_tokens) == (0, 8)


def test_the_last_prompt_token_is_always_computed() -> None:
    one = engine()
    one.add(work("a", prompt=8, prefix="p"), 0.0)
    drain(one)
    again = one.add(work("b", prompt=8, prefix="p"), 10.0)
    assert again.cached_tokens == 4


def test_generated_blocks_serve_the_next_turn_of_a_chat() -> None:
    one = engine(max_model_len=256)
    first = chat_work("a", ("user", "what is it?"), output=21)
    one.add(first, 0.0)
    drain(one)
    answer = first.answer.decode()
    second = chat_work("b", ("user", "what is it?"), ("assistant", answer), ("user", "and then?"))
    seq = one.add(second, 100.0)
    # All full blocks of what had KV: the last generated token never got any.
    assert seq.cached_tokens == (first.prompt_tokens + 20) // 4 * 4


def test_unknown_answers_are_not_shared() -> None:
    one = engine()
    a = work("a", prompt=8, output=16, prefix="p")
    one.add(a, 0.0)
    drain(one)
    longer = replace(work("b", prompt=24, output=2, prefix="p"), blocks=(*a.blocks, 1, 2, 3, 4))
    assert one.add(longer, 50.0).cached_tokens == 8


def test_least_recently_used_blocks_are_evicted_first() -> None:
    one = engine(kv_blocks=12, max_model_len=48)
    for at, name in enumerate(("old", "new")):
        one.add(work(name, prompt=16, output=1), at * 100.0)
        drain(one)
    one.add(work("big", prompt=24, output=1), 300.0)
    drain(one)
    assert one.add(work("n2", prompt=17, output=1, prefix="new"), 400.0).cached_tokens == 16
    drain(one)
    assert one.add(work("o2", prompt=17, output=1, prefix="old"), 500.0).cached_tokens == 4


def test_the_last_admitted_is_preempted_and_computed_again() -> None:
    one = engine(kv_blocks=10, max_model_len=40, max_num_batched_tokens=40)
    a = one.add(work("a", prompt=16, output=12), 0.0)
    b = one.add(work("b", prompt=16, output=12), 0.0)
    seen = drain(one)
    assert (a.preemptions, b.preemptions) == (0, 1)
    assert [line.split(" ", 1)[1] for line in seen] == ["first a", "first b", "end a", "end b"]
    assert one.counters.preemptions == 1
    assert one.generated(b) == 12
    assert one.counters.generation_tokens == 24
    assert one.kv.used == 0


def test_a_waiting_request_is_admitted_when_one_ends() -> None:
    one = engine(max_num_seqs=1)
    one.add(work("a", output=3), 0.0)
    one.add(work("b", output=1), 0.0)
    one.advance()
    assert (one.running, one.waiting) == (1, 1)
    assert drain(one)[-1].endswith("end b")


def test_adapters_beyond_the_slots_wait_and_others_pass() -> None:
    one = engine(max_loras=1)
    one.add(work("a", output=4, lora="x"), 0.0)
    y = one.add(work("b", output=2, lora="y"), 0.1)
    x = one.add(work("c", output=2, lora="x"), 0.2)
    plain = one.add(work("d", output=2), 0.3)
    one.advance()
    assert (one.adapters.running, one.adapters.waiting) == ({"x": 2}, {"y": 1})
    drain(one)
    assert x.scheduled_at == plain.scheduled_at < y.scheduled_at
    assert (one.adapters.running, one.adapters.waiting) == ({}, {})


def test_limits_refuse() -> None:
    one = engine(max_num_seqs=1, max_waiting=2)
    with pytest.raises(Rejected) as too_long:
        one.add(work("a", prompt=199, output=2), 0.0)
    assert too_long.value.status == 400
    for name in "abc":
        one.add(work(name), 0.0)
    with pytest.raises(Rejected) as full:
        one.add(work("d"), 0.0)
    assert full.value.status == 429
    with pytest.raises(Rejected):
        one.add(work("e", output=0), 0.0)


@pytest.mark.parametrize(
    "changes", [{"kv_blocks": 49}, {"max_num_seqs": 33}, {"max_loras": 0}], ids=["cache", "budget", "loras"]
)
def test_an_engine_that_could_get_stuck_is_not_built(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"smaller|below"):
        engine(**changes)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_an_abort_frees_everything(steps: int) -> None:
    one = engine()
    a = one.add(work("a", prompt=40, output=9), 0.0)
    b = one.add(work("b", prompt=8, output=3), 0.0)
    for _ in range(steps):
        one.advance()
    one.abort(a, one.due - 0.1)
    one.abort(a, one.due)
    assert a.ended is Finish.ABORT
    assert drain(one)[-1].endswith("end b")
    assert b.ended is Finish.LENGTH
    assert (one.kv.used, one.unfinished, one.context_tokens) == (0, 0, 0)


def test_slow_stretches_every_step() -> None:
    one = engine()
    one.slow = 3.0
    one.add(work("a", prompt=10, output=1), 0.0)
    assert drain(one) == ["3.30 first a", "3.30 end a"]


def test_context_and_batch_cost_time() -> None:
    one = engine(decode_s=0.1, context_token_s=0.01)
    one.add(work("a", prompt=10, output=2), 0.0)
    one.advance()
    # One decode that attends to eleven tokens.
    assert one.due == pytest.approx(1.1 + 1.0 + 0.1 + 0.11)


def test_the_same_seed_gives_the_same_times() -> None:
    def run(seed: int) -> list[str]:
        one = Engine(replace(ROUND, jitter=0.2), seed=seed)
        for name in "abc":
            one.add(work(name), 0.0)
        return drain(one)

    assert run(1) == run(1) != run(2)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_comes_everything_ends(data: st.DataObject) -> None:
    """Small caches, shared prefixes, adapters and aborts at any time: every request ends, generates what
    it asked for, and leaves no block behind."""
    blocks = data.draw(st.integers(8, 40))
    one = engine(
        kv_blocks=blocks,
        max_model_len=blocks * 4,
        max_num_seqs=data.draw(st.integers(1, 6)),
        max_num_batched_tokens=data.draw(st.integers(6, 64)),
        max_loras=data.draw(st.integers(1, 2)),
        intake_s=data.draw(st.sampled_from([0.0, 0.7])),
        jitter=0.1,
    )
    rng = random.Random(data.draw(st.integers(0, 1 << 32)))
    speech = Speech(0)
    now = 0.0
    admitted = []
    for i in range(rng.randint(1, 40)):
        now += rng.choice([0.0, 0.3, 2.0])
        while one.due <= now:
            one.advance()
        prompt = rng.randint(1, blocks * 3)
        output = rng.randint(1, blocks * 4 - prompt)
        new = work(
            f"w{i}", prompt, output, prefix=f"p{rng.randrange(3)}", lora=rng.choice(["", "x", "y", "z"])
        )
        if rng.random() < 0.5:
            new = replace(new, tail=b"t" * (prompt % 4 * 4), answer=speech.answer(b"", output))
        admitted.append(one.add(new, now))
        if rng.random() < 0.3:
            one.abort(rng.choice(admitted), now)
        assert one.kv.used <= blocks
        assert one.running <= one.profile.max_num_seqs
        assert len(one.adapters.running) <= one.adapters.slots
    drain(one)
    assert (one.unfinished, one.kv.used, one.context_tokens) == (0, 0, 0)
    assert (one.adapters.running, one.adapters.waiting) == ({}, {})
    for seq in admitted:
        assert seq.ended is not None
        if seq.ended is not Finish.ABORT:
            assert one.generated(seq) == seq.work.output_tokens
            assert seq.arrived_at <= seq.scheduled_at < seq.first_token_at <= seq.finished_at
    assert one.counters.generation_tokens == sum(one.generated(seq) for seq in admitted)
