"""Single-turn workloads: prompts of drawn lengths, and groups of prompts with one shared prefix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from epp.load.arrivals import Arrivals
from epp.load.calls import Arrival, Manner, Message, Session, Single, Workload
from epp.load.lengths import Draw, tokens
from epp.load.text import words

MakeSession = Callable[[int, Random], Session]


def arrive(arrivals: Arrivals, seed: int, make: MakeSession) -> Workload:
    """A session for every arrival, each with chance of its own.

    So that session i is the same whatever the others do, and two runs of one seed send the same text.
    """
    for index, at in enumerate(arrivals):
        yield Arrival(at, make(index, Random(f"{seed}/{index}")))


@dataclass(frozen=True, slots=True)
class RandomPrompts:
    """Prompts that share nothing but what `shared_tokens` says (one common prefix for all)."""

    manner: Manner
    seed: int
    input_tokens: Draw
    output_tokens: Draw
    shared_tokens: int = 0

    def make(self, index: int, rng: Random) -> Session:
        own = words(f"{self.seed}/prompt/{index}", tokens(self.input_tokens, rng))
        text = words(f"{self.seed}/shared", self.shared_tokens) + own if self.shared_tokens else own
        call = self.manner.client(rng).call([Message("user", text)], tokens(self.output_tokens, rng))
        return Single(f"prompt-{index}", call)


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Groups with one long system prompt each and a question of its own in every request.

    The shape of inference-perf's shared-prefix data: `groups` times a system prompt, `prompts` different
    questions in each group (asked again and again as the run goes on; 0: every question is new).
    """

    manner: Manner
    seed: int
    groups: int
    question_tokens: Draw
    output_tokens: Draw
    prompts: int = 0
    system_tokens: int = 2048

    def make(self, index: int, rng: Random) -> Session:
        group = rng.randrange(self.groups)
        question = rng.randrange(self.prompts) if self.prompts else index
        own = Random(f"{self.seed}/{group}/{question}")
        messages = [
            Message("system", words(f"{self.seed}/group/{group}", self.system_tokens)),
            Message("user", words(f"{self.seed}/{group}/{question}", tokens(self.question_tokens, own))),
        ]
        call = self.manner.client(rng).call(messages, tokens(self.output_tokens, own))
        return Single(f"group-{group}", call)
