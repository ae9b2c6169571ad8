"""Columns that several families read: cached and uncached tokens of this prompt, what is in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import Floats, Ints, Snapshot
from epp.scheduling.contract import Cycle, PrefixMatch

APPROXIMATE_PREFIX = "approx-prefix-cache-producer"
INFLIGHT_LOAD = "inflight-load-producer"


def prefix_match(cycle: Cycle, producer: str) -> PrefixMatch | None:
    """The match by the producer's instance name; with an empty name the approximate one, else the first."""
    found = cycle.prefix
    if producer:
        return found.get(producer)
    if not found:
        return None
    return found.get(APPROXIMATE_PREFIX) or next(iter(found.values()))


def uncached_tokens(cycle: Cycle, rows: Ints, producer: str = "") -> Floats:
    """Tokens of this prompt that each endpoint would have to prefill, as far as we know."""
    total = cycle.request.input_tokens
    match = prefix_match(cycle, producer)
    if match is None:
        return np.full(len(rows), float(total))
    left: Floats = total - match.tokens(total)[rows]
    return left


def inflight_tokens(cycle: Cycle, rows: Ints, producer: str = "") -> Floats:
    """Prompt tokens in flight (with expected output tokens where the producer adds them)."""
    column = cycle.columns.get(f"{producer or INFLIGHT_LOAD}/tokens")
    if column is not None:
        return column[rows]
    return cycle.inflight.prefill_tokens(cycle.snapshot.slots[rows])


def inflight_requests(cycle: Cycle, rows: Ints) -> Floats:
    """Our unfinished requests at each endpoint."""
    return cycle.inflight.requests(cycle.snapshot.slots[rows])


D = TypeVar("D", bound=np.generic)


class EndpointColumn(Generic[D]):
    """A column computed from what discovery says about endpoints, kept until the pool changes.

    The store publishes a new `endpoints` tuple only when the pool changes, so its identity tells.
    """

    def __init__(self, value: Callable[[Endpoint], object], dtype: type[D]) -> None:
        self._value = value
        self._dtype = dtype
        self._endpoints: tuple[Endpoint, ...] | None = None
        self._column: NDArray[D] = np.zeros(0, dtype=dtype)

    def of(self, snapshot: Snapshot) -> NDArray[D]:
        """Aligned with the snapshot's rows."""
        if snapshot.endpoints is not self._endpoints:
            values = [self._value(endpoint) for endpoint in snapshot.endpoints]
            self._column = np.asarray(values, dtype=self._dtype)
            self._endpoints = snapshot.endpoints
        return self._column
