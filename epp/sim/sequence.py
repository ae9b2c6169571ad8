"""One request inside the engine: what it asks for, and how far it has come."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from enum import StrEnum

from xxhash import xxh3_64_intdigest

from epp.sim.tokens import TOKEN_BYTES


class Rejected(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """The engine does not take the request."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status: 400 for too long, 404 for an unknown model, 429 for a full queue."""
        self.message = message
        self.param = param


class Finish(StrEnum):
    """Why a sequence ended, in vLLM's words (label `finished_reason`)."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of an engine. Of the prompt it needs only the length and the keys of its blocks, so
    that a replay can be made from a trace of hashes, without text."""

    id: str
    prompt_tokens: int
    """At least 1."""
    output_tokens: int
    """Tokens that will be generated, at least 1."""
    blocks: Items[int] = ()
    """Chained keys of the prompt's full blocks; fewer than there are: the rest is never shared."""
    tail: bytes = b""
    """Packed prompt tokens behind the last full block, so that generated blocks continue the chain."""
    answer: bytes = b""
    """Packed generated tokens; empty: unknown, and the blocks that they fill are this request's alone."""
    lora: str = ""
    finish: Finish = Finish.LENGTH
    """How it will end unless it is aborted."""
    max_tokens: int | None = None
    """As the client asked, for the metrics; None: it did not."""


class Phase(StrEnum):
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Sequence:
    """State of one Work. Times are the engine's, in seconds; -1 until they happen. Written by the engine
    only; counters of a decoding sequence come from `Engine.generated`."""

    work: Work
    number: int
    """Order of arrival at its engine."""
    arrived_at: float
    ready_at: float
    scheduled_at: float = -1.0
    """First time in a batch."""
    first_token_at: float = -1.0
    finished_at: float = -1.0
    phase: Phase = Phase.WAITING
    cached_tokens: int = 0
    """Prompt tokens found in the cache when it was first scheduled."""
    preemptions: int = 0
    ended: Finish | None = None

    keys: list[int] = field(init=False)
    """Keys of the blocks so far; grows as generated blocks fill."""
    shared: list[int] = field(default_factory=list)
    """Keys of the blocks that it holds in the cache."""
    private: int = 0
    """Blocks that it holds without a key."""
    computed: int = 0
    """Tokens whose KV exists; while decoding: as of `start_step`."""
    target: int = 0
    """Tokens to compute before the next one can be generated."""
    done_tokens: int = 0
    """Generated tokens; while decoding: as of `start_step`."""
    start_step: int = 0
    """Step that produced the token that opened this stretch of decoding."""
    end_step: int = -1
    """Step that will produce the last token, unless it is preempted before."""
    block_step: int = -1
    """Step that will need one more block."""

    def __post_init__(self) -> None:
        self.keys = list(self.work.blocks)
        self.target = self.work.prompt_tokens

    def key(self, index: int, block_tokens: int) -> int | None:
        """Key of full block `index`; None when it lies in a part of the prompt that nobody can share.

        Blocks must be asked for in order, the engine does."""
        keys = self.keys
        if index < len(keys):
            return keys[index]
        work = self.work
        prompt_blocks = work.prompt_tokens // block_tokens
        if index < prompt_blocks or index != len(keys):
            return None
        parent = keys[-1] if keys else 0
        if work.answer:
            size = block_tokens * TOKEN_BYTES
            content = work.tail + work.answer
            at = (index - prompt_blocks) * size
            key = xxh3_64_intdigest(content[at : at + size], parent)
        else:
            key = xxh3_64_intdigest(f"{work.id}/{index}".encode(), parent)
        keys.append(key)
        return key
