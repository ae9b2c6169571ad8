"""Who asks for what, and when: five tenants in three bands, one of which floods for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from epp.load.calls import FAIRNESS_HEADER, OBJECTIVE_HEADER, Call, Client, Manner, Message, Mix
from epp.load.text import words

MODEL: Final = "demo-model"
ENGINES: Final = 2
BATCH: Final = 8
"""Sequences that an engine works on at once."""
ENGINE_OPTIONS: Final = (f"--model={MODEL}", "--profile=llama-3.1-70b-8xh100", f"--max-num-seqs={BATCH}")
CAPACITY: Final = 20.0
"""Requests a second that the engines answer, of the lengths below."""
TENANTS: Final = ("ash", "beech", "cedar", "damson", "elder")
FLOODER: Final = "elder"
SMALL_SHARE: Final = 0.1
"""Of capacity, what a tenant sends; half of a fair share."""
FLOOD_SHARE: Final = 2.0
"""Of capacity, what the flooder sends on top."""
_PROMPT_TOKENS: Final = (20, 80)
_ANSWER_TOKENS: Final = 24
_SPREAD: Final = 0.4


@dataclass(frozen=True, slots=True)
class Band:
    name: str
    priority: int
    share: float
    """Of what a tenant sends."""
    flood_share: float


BANDS: Final = (
    Band("interactive", 100, 0.2, 0.1),
    Band("standard", 0, 0.4, 0.3),
    Band("batch", -10, 0.4, 0.6),
)
"""Highest first."""


@dataclass(frozen=True, slots=True)
class Phases:
    """Calm, flood, calm again: seconds since the start."""

    flood_at: float
    ebb_at: float
    calm_at: float
    """The flood's last traces should be gone by now."""
    end_at: float

    @classmethod
    def of(cls, seconds: float) -> Phases:
        return cls(0.15 * seconds, 0.55 * seconds, 0.8 * seconds, seconds)

    def name(self, at: float) -> str:
        return "calm" if at < self.flood_at else "FLOOD" if at < self.ebb_at else "after the flood"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as its client means it."""

    at: float
    tenant: str
    band: Band
    call: Call
    patience: int
    """How many refusals the client answers by coming again, when Retry-After says."""


def asks(phases: Phases, seed: int) -> Sequence[Ask]:
    """In order of time."""
    found = [ask for tenant in TENANTS for ask in _of(tenant, phases, seed)]
    return sorted(found, key=lambda ask: ask.at)


def _of(tenant: str, phases: Phases, seed: int) -> Iterator[Ask]:
    rng = Random(f"{seed}/{tenant}")
    weights = [band.share for band in BANDS]
    for at in _times(rng, SMALL_SHARE, 0.0, phases.end_at):
        yield _ask(rng, at, tenant, weights)
    if tenant == FLOODER:
        weights = [band.flood_share for band in BANDS]
        for at in _times(rng, FLOOD_SHARE, phases.flood_at, phases.ebb_at):
            yield _ask(rng, at, tenant, weights)


def _times(rng: Random, share: float, begin: float, end: float) -> Iterator[float]:
    at = begin + rng.expovariate(share * CAPACITY)
    while at < end:
        yield at
        at += rng.expovariate(share * CAPACITY)


def _ask(rng: Random, at: float, tenant: str, weights: Sequence[float]) -> Ask:
    (band,) = rng.choices(BANDS, weights)
    headers = {OBJECTIVE_HEADER: band.name, FAIRNESS_HEADER: tenant}
    prompt = Message("user", words(f"{tenant}/{at}", rng.randint(*_PROMPT_TOKENS)))
    answer = max(4, round(_ANSWER_TOKENS * rng.lognormvariate(0.0, _SPREAD)))
    call = Client(_MANNER, MODEL, headers).call([prompt], answer)
    # Half of the clients give up when they are refused; the others come back once or, as OpenAI's, twice.
    return Ask(at, tenant, band, call, rng.choice((0, 0, 1, 2)))


_MANNER = Manner(Mix((MODEL,), (1.0,)))
