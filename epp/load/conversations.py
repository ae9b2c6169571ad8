"""Multi-turn chats: turn n+1 holds turn n's messages and the answer that really came, sent after a pause.

The default shape was fitted to an hour of a chat service (12,031 requests, the conversation trace of
kvcache-ai/Mooncake, FAST25). A request was taken to continue the latest earlier one whose whole blocks of
512 tokens open its own prompt. That gives, away from the first ten minutes:
- one block at the front of every request: a system prompt of about 512 tokens that all chats share;
- first prompts from 0.9k to 85k tokens, median 5.7k; answers 3 to 1,119, median 350 (quantiles below);
- text added by the user in a later turn (this prompt minus the last prompt and answer): median 28, but a
  tenth adds 4.4k or more (a pasted document);
- from one request to the next of a chat 126 s in the median. The trace does not say when an answer ended,
  so the pause here is that gap: an upper bound of the thinking alone;
- 27 % go on after the first turn, 41 % after the second, about 70 % from the fifth on.
All 1 % and 99 % quantiles are taken as the ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from epp.load.calls import Call, Client, Manner, Message
from epp.load.lengths import Draw, Quantiles, tokens
from epp.load.text import estimate, words

FIRST_TOKENS = Quantiles(
    ((0, 894), (0.1, 906), (0.25, 1392), (0.5, 5659), (0.75, 13861), (0.9, 25482), (1, 84485))
)
"""Of a chat's first prompt, system prompt included."""
NEXT_TOKENS = Quantiles(((0, 3), (0.1, 4), (0.25, 10), (0.5, 28), (0.75, 417), (0.9, 4398), (1, 17093)))
ANSWER_TOKENS = Quantiles(((0, 3), (0.1, 24), (0.25, 157), (0.5, 350), (0.75, 472), (0.9, 597), (1, 1119)))
PAUSE_S = Quantiles(((0, 15), (0.1, 42), (0.25, 69), (0.5, 126), (0.75, 276), (0.9, 484), (1, 1470)))
GO_ON = (0.27, 0.41, 0.56, 0.63, 0.69, 0.70, 0.75, 0.72)
"""Chance of another turn after turn 1, 2, ...; the last value holds from there on."""
SYSTEM_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Shape:
    """What chats look like. `length_scale` and `pause_scale` shrink all of it to what a test bed can take."""

    systems: int = 1
    """Different system prompts in use (the trace: one)."""
    system_tokens: int = SYSTEM_TOKENS
    first: Draw = FIRST_TOKENS
    following: Draw = NEXT_TOKENS
    answer: Draw = ANSWER_TOKENS
    pause_s: Draw = PAUSE_S
    go_on: tuple[float, ...] = GO_ON
    length_scale: float = 1.0
    answer_scale: float = 1.0
    pause_scale: float = 1.0
    min_turns: int = 1
    max_turns: int = 43
    """The longest in the trace."""
    max_context: int = 120_000
    """Tokens of prompt and answer together; a chat that would pass it ends."""

    def goes_on(self, turn: int, rng: Random) -> bool:
        """After `turn` turns (from 1)."""
        if turn < self.min_turns:
            return turn < self.max_turns
        chance = self.go_on[min(turn, len(self.go_on)) - 1]
        return turn < self.max_turns and rng.random() < chance


@dataclass(frozen=True, slots=True)
class Conversations:
    """Makes chats of one shape."""

    manner: Manner
    seed: int
    shape: Shape = field(default_factory=Shape)

    def make(self, index: int, rng: Random) -> Chat:
        return Chat(f"chat-{index}", self.shape, self.manner.client(rng), rng, self.seed)


class Chat:
    """One chat in progress. All chance comes from its own rng, in the order of its turns."""

    def __init__(self, name: str, shape: Shape, client: Client, rng: Random, seed: int) -> None:
        self.name = name
        self._shape = shape
        self._client = client
        self._rng = rng
        self._prefix = f"{seed}/{name}"
        self._turn = 0
        self._bytes = 0
        system = rng.randrange(shape.systems)
        self._messages: list[Message] = []
        if shape.system_tokens:
            self._add("system", words(f"{seed}/system/{system}", shape.system_tokens))

    def first(self) -> Call:
        shape = self._shape
        total = tokens(shape.first, self._rng, shape.length_scale)
        room = max(1, shape.max_context - shape.system_tokens)
        return self._ask(min(room, max(1, total - shape.system_tokens)))

    def after(self, answer: str) -> tuple[float, Call] | None:
        shape, rng = self._shape, self._rng
        if not answer or not shape.goes_on(self._turn, rng):
            return None
        self._add("assistant", answer)
        pause = shape.pause_s.draw(rng) * shape.pause_scale
        added = tokens(shape.following, rng, shape.length_scale)
        if estimate(self._bytes) + added > shape.max_context:
            return None
        return pause, self._ask(added)

    def _ask(self, added: int) -> Call:
        self._turn += 1
        self._add("user", words(f"{self._prefix}/{self._turn}", added))
        answer = tokens(self._shape.answer, self._rng, self._shape.answer_scale)
        return self._client.call(self._messages, answer)

    def _add(self, role: str, content: str) -> None:
        self._messages.append(Message(role, content))
        self._bytes += len(content)


def scaled(shape: Shape, lengths: float, pauses: float) -> Shape:
    """The same shape with shorter texts (system prompts and answers too) and pauses."""
    return replace(
        shape,
        system_tokens=max(1, round(shape.system_tokens * lengths)),
        length_scale=shape.length_scale * lengths,
        answer_scale=shape.answer_scale * lengths,
        pause_scale=shape.pause_scale * pauses,
    )
