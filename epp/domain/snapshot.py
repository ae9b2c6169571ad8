"""The frozen view of the pool that one decision sees: one numpy column per signal, swapped whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from epp.domain.endpoint import Endpoint

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.intp]
Bools: TypeAlias = NDArray[np.bool_]

NEVER = float("-inf")
"""`scraped_at` of an endpoint that has not answered a scrape yet."""


@lru_cache(maxsize=16)
def every_row(count: int) -> Ints:
    """0 to count - 1: the same read-only array for every pool of that size."""
    rows = np.arange(count)
    rows.flags.writeable = False
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Columns are aligned with `endpoints`: row i of each describes endpoints[i]. Arrays are read-only.

    Values are as the engine last reported them; `scraped_at` tells how old they are (monotonic seconds,
    NEVER when no scrape has succeeded), and then waiting, running and kv_used are 0.
    """

    version: int
    at: float
    """Monotonic seconds of publication."""
    endpoints: tuple[Endpoint, ...]
    slots: Ints
    waiting: Floats
    """Requests in the engine's queue."""
    running: Floats
    """Requests in the engine's batch."""
    kv_used: Floats
    """Share of KV-cache blocks in use, 0..1."""
    block_size: Ints
    """Tokens in a KV-cache block; 0 where not reported."""
    num_blocks: Ints
    """KV-cache blocks of the engine; 0 where not reported."""
    scraped_at: Floats
    lora_max: Ints
    """Adapters that fit at once; 0 where not reported."""
    lora_running: tuple[frozenset[str], ...]
    lora_waiting: tuple[frozenset[str], ...]
    models: tuple[frozenset[str] | None, ...]
    """Names that the endpoint serves (base models and adapters); None where not known."""
    available: Bools
    """False while the endpoint is avoided because real requests to it failed."""
    stale_after_s: float = 0.2
    """Metrics older than this count as stale: max(200 ms, three scrape intervals)."""
    every: Ints = field(init=False, repr=False)
    """All rows in order, as one object while the pool keeps its size: where `rows is snapshot.every`, a
    column can be taken as it is."""
    avoids: bool = field(init=False, repr=False)
    """Some endpoint is not available."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", every_row(len(self.endpoints)))
        object.__setattr__(self, "avoids", np.count_nonzero(self.available) < len(self.endpoints))

    def __len__(self) -> int:
        return len(self.endpoints)

    def fresh(self, now: float) -> Bools:
        """Rows whose metrics are not stale at `now`."""
        return self.scraped_at >= now - self.stale_after_s


def empty_snapshot(at: float = 0.0) -> Snapshot:
    """A pool without endpoints."""
    floats = np.zeros(0)
    ints = np.zeros(0, dtype=np.intp)
    return Snapshot(
        version=0, at=at, endpoints=(), slots=ints, waiting=floats, running=floats, kv_used=floats,
        block_size=ints, num_blocks=ints, scraped_at=floats, lora_max=ints, lora_running=(),
        lora_waiting=(), models=(), available=np.zeros(0, dtype=np.bool_),
    )  # fmt: skip
