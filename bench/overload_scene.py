"""What bench/overload.py plays: ten tenants in three bands, one of which floods, and clients that come back.

Loads are shares of what the engines can do. Nine tenants send 0.05 each at every load, half of a fair share;
the tenth sends what is missing to the whole. Every tenant sends a fifth of its tokens in the top band.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from random import Random
from typing import Final

import numpy as np

from epp.domain.request import Api, Prompt, Request, RequestHead
from epp.sim.sequence import Work

TENANTS: Final = 10
FLOODER: Final = 0
SMALL_SHARE: Final = 0.05
"""Of capacity, what each of the others sends."""
FAIR_SHARE: Final = 1.0 / TENANTS
_MODEL: Final = "model"


@dataclass(frozen=True, slots=True)
class Band:
    name: str
    priority: int
    slo_s: float
    """To the first token, from when the client first asked."""
    share: float
    """Of a tenant's requests."""
    flood_share: float
    """Of the flooder's."""


BANDS: Final = (
    Band("interactive", 100, 1.0, 0.2, 0.2),
    Band("standard", 0, 5.0, 0.4, 0.1),
    Band("batch", -10, 60.0, 0.4, 0.7),
)
"""Highest first."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens, log-normal and bounded, about those of public chat traces."""

    median: float
    sigma: float
    least: int
    most: int

    def draw(self, rng: Random) -> int:
        return min(self.most, max(self.least, round(self.median * rng.lognormvariate(0.0, self.sigma))))


PROMPTS: Final = Lengths(512, 0.8, 16, 6000)
ANSWERS: Final = Lengths(160, 0.7, 8, 1000)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as its client means it."""

    at: float
    number: int
    tenant: int
    band: Band
    prompt_tokens: int
    output_tokens: int
    patience: int
    """How many refusals the client answers by coming again, when Retry-After says."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    def request(self) -> Request:
        """As the picker sees it: a prompt that nobody shares."""
        tokens = np.arange(self.prompt_tokens, dtype=np.uint32) + np.uint32(self.number * 8192 & 0xFFFFFFFF)
        head = RequestHead({}, "POST", "/v1/completions", f"r{self.number}", self.at)
        return Request(
            head=head, api=Api.COMPLETIONS, model=_MODEL, target_model=_MODEL,
            size_bytes=4 * self.prompt_tokens, prompts=(Prompt(tokens=tokens),),
            priority=self.band.priority, fairness_id=f"tenant-{self.tenant}",
        )  # fmt: skip

    def work(self) -> Work:
        return Work(f"r{self.number}", self.prompt_tokens, self.output_tokens)


@dataclass(eq=False, slots=True)
class Job:
    """What became of an Ask."""

    ask: Ask
    refused_at: list[float] = field(default_factory=list)
    retry_after_s: list[int] = field(default_factory=list)
    """Of each refusal."""
    first_token_at: float = np.inf
    finished_at: float = np.inf

    @property
    def ttft_s(self) -> float:
        """From when the client first asked; inf for one that was never answered."""
        return self.first_token_at - self.ask.at

    @property
    def within_slo(self) -> bool:
        return self.ttft_s <= self.ask.band.slo_s


def patience(rng: Random) -> int:
    """Half of the clients go away at the first refusal, a quarter comes once more, a quarter twice (the
    default of OpenAI's clients)."""
    return rng.choice((0, 0, 1, 2))


def works(seed: int) -> Iterator[Work]:
    """Requests of the same lengths without end, to measure what engines can do."""
    rng = Random(f"{seed}/works")
    number = 0
    while True:
        yield Work(f"w{number}", PROMPTS.draw(rng), ANSWERS.draw(rng))
        number += 1


def share_of(tenant: int, load: float) -> float:
    """Of capacity, what a tenant sends."""
    return SMALL_SHARE if tenant != FLOODER else load - SMALL_SHARE * (TENANTS - 1)


def asks(load: float, requests_s: float, until_s: float, seed: int) -> Iterator[Ask]:
    """In order of time; `requests_s` is the engines' capacity. Small tenants send the same at any load."""
    tenants = [_of(i, share_of(i, load) * requests_s, until_s, seed) for i in range(TENANTS)]
    for number, (at, _, tenant, rng) in enumerate(merge(*tenants)):
        weights = [band.flood_share if tenant == FLOODER else band.share for band in BANDS]
        (band,) = rng.choices(BANDS, weights)
        yield Ask(at, number, tenant, band, PROMPTS.draw(rng), ANSWERS.draw(rng), patience(rng))


def _of(
    tenant: int, per_second: float, until_s: float, seed: int
) -> Iterator[tuple[float, int, int, Random]]:
    rng = Random(f"{seed}/{tenant}")
    at = rng.expovariate(per_second)
    count = 0
    while at < until_s:
        yield at, count, tenant, Random(f"{seed}/{tenant}/{count}")
        count += 1
        at += rng.expovariate(per_second)
