"""Small engines with round numbers: a step takes 1 s, a prompt token 10 ms, nothing is random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from epp.sim.engine import Engine
from epp.sim.profile import Profile
from epp.sim.sequence import Work
from epp.sim.tokens import Speech, chain, chain_all, count, pack_chat, root_of

ROUND = Profile(
    about="round numbers",
    intake_s=0.0,
    step_s=1.0,
    prefill_token_s=0.01,
    decode_s=0.0,
    context_token_s=0.0,
    jitter=0.0,
    kv_blocks=64,
    block_tokens=4,
    max_num_seqs=8,
    max_num_batched_tokens=32,
    max_model_len=200,
)


def engine(*, max_loras: int = 1, max_waiting: int = 1000, **changes: Any) -> Engine:
    return Engine(replace(ROUND, **changes), max_loras=max_loras, max_waiting=max_waiting)


def work(name: str = "a", prompt: int = 8, output: int = 3, *, prefix: str = "", lora: str = "") -> Work:
    """A prompt of its own, or one that shares its blocks with others of the same prefix."""
    root = root_of(lora, prefix or name)
    return Work(name, prompt, output, blocks=[chain(root, b"%d" % i) for i in range(prompt // 4)], lora=lora)


def chat_work(name: str, *turns: tuple[str, str], output: int = 3, block_tokens: int = 4) -> Work:
    """A chat of (role, text) as the server would ask for it."""
    packed = pack_chat([(role, text.encode()) for role, text in turns])
    full = count(packed) // block_tokens * block_tokens * 4
    return Work(
        name,
        count(packed),
        output,
        blocks=chain_all(packed, block_tokens, root_of("", "")),
        tail=packed[full:],
        answer=Speech(0).answer(packed, output),
    )


def drain(one: Engine, steps: int = 100_000) -> list[str]:
    """Runs to the end; every event as text, in order."""
    seen = []
    while one.due < float("inf"):
        step = one.advance()
        seen += [f"{step.at:.2f} first {seq.work.id}" for seq in step.first]
        seen += [f"{step.at:.2f} end {seq.work.id}" for seq in step.finished]
        steps -= 1
        assert steps, "the engine does not come to an end"
    return seen
