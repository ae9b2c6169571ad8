"""What bench/policy.py plays: sessions of turns, each as the picker and as an engine sees it.

Generated chats and prompts take the way of real ones: the load generator's bodies are read by the picker's
parsers and by the simulated server's, so both sides see the tokens that they would see over HTTP. A trace
has no text: each hash id becomes 512 token ids for the picker and the keys of whole blocks for the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from epp.domain.request import Api, Prompt, Request, RequestHead
from epp.load import arrivals, traces
from epp.load.calls import Arrival, Call, Manner, Mix
from epp.load.conversations import Conversations
from epp.load.lengths import Fixed, LogNormal, Uniform
from epp.load.workload import MakeSession, RandomPrompts, SharedPrefixes, arrive
from epp.parsing.select import Parsers, default_parsers
from epp.sim.openai import Bodies
from epp.sim.sequence import Work
from epp.sim.tokens import TOKEN_BYTES, Speech, chain_all, count, root_of

ENGINE_BLOCK: Final = 16
"""Tokens in a KV block of the simulated engines."""
_MODEL: Final = "model"
_MANNER: Final = Manner(models=Mix((_MODEL,), (1.0,)))
_BLOCKS_OF_ID: Final = traces.BLOCK_TOKENS // ENGINE_BLOCK
_PATTERN: Final = np.arange(traces.BLOCK_TOKENS, dtype=np.uint32) * np.uint32(0x9E3779B1)


class Turn(Protocol):
    """One request of a session."""

    @property
    def pause_s(self) -> float:
        """Since the end of the answer before; 0 for the first turn."""

    def make(self) -> tuple[Request, Work]:
        """What the picker sees and what the engine gets."""


@dataclass(frozen=True, slots=True)
class Session:
    """One client. Times are those of load x1.0."""

    at: float
    """When it begins, seconds from the start."""
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """A turn whose request is kept."""

    pause_s: float
    request: Request
    work: Work

    def make(self) -> tuple[Request, Work]:
        return self.request, self.work


@dataclass(frozen=True, slots=True)
class Traced:
    """A line of a trace; made anew in every run, because an hour of prompts would not fit into memory."""

    number: int
    entry: traces.Entry
    pause_s: float = 0.0

    def make(self) -> tuple[Request, Work]:
        entry = self.entry
        ids = entry.hash_ids or (-1 - self.number,)
        missing = -(-entry.input_length // traces.BLOCK_TOKENS) - len(ids)
        # As epp.load.traces does: what lies behind the ids follows from the last one.
        ids += tuple([(ids[-1] + 1 << 24) + i for i in range(missing)])
        size = entry.input_length
        prompt = np.concatenate([_tokens(block) for block in ids])[:size]
        blocks = [key for block in ids for key in range(block * _BLOCKS_OF_ID, (block + 1) * _BLOCKS_OF_ID)]
        name = f"trace-{self.number}"
        request = Request(
            head=RequestHead({}, "POST", "/v1/completions", name, 0.0), api=Api.COMPLETIONS, model=_MODEL,
            target_model=_MODEL, size_bytes=4 * size, prompts=(Prompt(tokens=prompt),),
            max_output_tokens=max(1, entry.output_length),
        )  # fmt: skip
        work = Work(name, size, max(1, entry.output_length), blocks[: size // ENGINE_BLOCK])
        return request, work


def _tokens(block: int) -> NDArray[np.uint32]:
    """512 token ids that tell a block from all others of 64-bit ids; about 2 us."""
    tokens: NDArray[np.uint32] = _PATTERN + np.uint32(block & 0xFFFFFFFF)
    tokens[0] = block >> 32 & 0xFFFFFFFF
    return tokens


def from_trace(path: Path, minutes: float) -> list[Session]:
    """Every request of the first minutes as a session of its own. Raises TraceError, OSError."""
    entries = sorted(traces.read(path), key=lambda entry: entry.timestamp)
    began = entries[0].timestamp if entries else 0.0
    within = takewhile(lambda entry: entry.timestamp - began < minutes * 60_000, entries)
    return [
        Session((entry.timestamp - began) / 1000.0, (Traced(number, entry),))
        for number, entry in enumerate(within)
    ]


@dataclass(frozen=True, slots=True)
class Kind:
    """A generated workload: sessions a second for each engine, and what a session is."""

    about: str
    rate: float
    make: Callable[[int], MakeSession]
    """From a seed."""


KINDS: Final[Mapping[str, Kind]] = {
    "chats": Kind(
        "multi-turn chats, lengths and pauses as the load generator has them by default",
        0.28,
        lambda seed: Conversations(_MANNER, seed).make,
    ),
    "shared": Kind(
        "one system prompt of 8,192 tokens in every request, a question of 50-500",
        2.5,
        lambda seed: SharedPrefixes(_MANNER, seed, 1, Uniform(50, 500), Uniform(50, 300), 0, 8192).make,
    ),
    "groups": Kind(
        "64 system prompts of 8,192 tokens, a question of 50-500",
        1.6,
        lambda seed: SharedPrefixes(_MANNER, seed, 64, Uniform(50, 500), Uniform(50, 300), 0, 8192).make,
    ),
    "short": Kind(
        "unrelated prompts of 20-200 tokens, answers of 20-100",
        15.0,
        lambda seed: RandomPrompts(_MANNER, seed, Uniform(20, 200), Uniform(20, 100)).make,
    ),
    "long": Kind(
        "unrelated prompts of 60,000 tokens among ten times as many of about 500",
        0.8,
        lambda seed: _some_long(seed),
    ),
}


def _some_long(seed: int) -> MakeSession:
    long = RandomPrompts(_MANNER, seed, Fixed(60_000), Uniform(50, 300)).make
    short = RandomPrompts(_MANNER, seed, LogNormal(500, 0.8), Uniform(50, 300)).make
    return lambda index, rng: (short if rng.random() < 10 / 11 else long)(index, rng)


def generated(kind: Kind, engines: int, minutes: float, seed: int) -> list[Session]:
    """The sessions that begin within the minutes, each with the turns that can fall into them."""
    seconds = minutes * 60
    starts = arrivals.bounded(
        arrivals.poisson(kind.rate * engines, Random(f"{seed}/starts")), seconds=seconds
    )
    reader = _Reader(seed)
    sessions = arrive(starts, seed, kind.make(seed))
    return [
        Session(arrival.at, tuple(reader.turns(f"{index}", arrival, seconds)))
        for index, arrival in enumerate(sessions)
    ]


class _Reader:
    """Bodies -> what the picker sees and what the engine gets."""

    def __init__(self, seed: int) -> None:
        self._parsers = Parsers(default_parsers())
        self._bodies = Bodies()
        self._speech = Speech(seed)

    def turns(self, name: str, arrival: Arrival, seconds: float) -> Iterator[Made]:
        """Those that can begin within the seconds; ids are `name/number`."""
        at, session = arrival
        pause, call = 0.0, session.first()
        number = 1
        while True:
            turn = self._read(f"{name}/{number}", call, pause)
            yield turn
            following = session.after(turn.work.answer.decode("ascii"))
            if following is None:
                return
            pause, call = following
            at += pause  # at the earliest
            number += 1
            if at >= seconds:
                return

    def _read(self, name: str, call: Call, pause: float) -> Made:
        request = self._parsers.parse(RequestHead(call.headers, "POST", call.path, name, 0.0), call.body)
        request.target_model = request.model
        ask = self._bodies.chat(call.body)
        (prompt,) = ask.prompts
        tokens = count(prompt)
        output = ask.max_tokens or 1
        return Made(
            pause,
            request,
            Work(
                id=name,
                prompt_tokens=tokens,
                output_tokens=output,
                blocks=chain_all(prompt, ENGINE_BLOCK, root_of("", "")),
                tail=prompt[tokens // ENGINE_BLOCK * ENGINE_BLOCK * TOKEN_BYTES :],
                answer=self._speech.answer(prompt, output),
            ),
        )
