"""How full the pool is: the reference picker's two detectors, also usable as filters in a profile.

A detector answers a number; from 1.0 on the pool counts as saturated. Queues that send several requests at
once also ask what each of them adds: the room that is left.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np
from msgspec import Meta

from epp.admission.room import Rising, Room
from epp.domain.snapshot import Bools, Floats, Ints, Snapshot
from epp.domain.units import duration_s
from epp.domain.views import InflightView
from epp.scheduling.contract import BuildContext, Cycle, PluginType


@runtime_checkable
class SaturationDetector(Protocol):
    def saturation(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> float:
        """Load of the given rows as a share of what they can take; 1.0 for no rows at all."""


@runtime_checkable
class RoomGiver(Protocol):
    """A detector that knows what one more request adds."""

    def room(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> Room:
        """The pool as `saturation` sees it, to be filled."""


def room_of(
    detector: SaturationDetector, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float
) -> Room:
    """The room that a detector sees. One that does not tell what a request adds is taken to be filled by five
    on each endpoint, the queue threshold of the default detector."""
    if isinstance(detector, RoomGiver):
        return detector.room(snapshot, rows, inflight, now)
    load = detector.saturation(snapshot, rows, inflight, now)
    return Rising(load, 1.0 / (5.0 * max(1, len(rows))))


class UtilizationParameters(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    queue_depth_threshold: Annotated[
        int, Meta(gt=0, description="waiting requests that fill an endpoint")
    ] = 5
    kv_cache_util_threshold: Annotated[
        float, Meta(gt=0, le=1, description="share of KV-cache blocks that fills an endpoint")
    ] = 0.8
    metrics_staleness_threshold: Annotated[
        str, Meta(description="metrics older than this (but at least three scrape intervals) count as full")
    ] = "200ms"
    headroom: Annotated[
        float, Meta(ge=0, description="as a filter: how far over the thresholds an endpoint may be")
    ] = 0.0


class UtilizationDetector:
    """Mean over endpoints of max(waiting / threshold, kv / threshold); stale or missing metrics are 1.0."""

    def __init__(self, parameters: UtilizationParameters, context: BuildContext | None = None) -> None:
        self._queue = float(parameters.queue_depth_threshold)
        self._kv = parameters.kv_cache_util_threshold
        self._headroom = 1.0 + parameters.headroom
        self._stale_s = duration_s(parameters.metrics_staleness_threshold)

    def saturation(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> float:
        if not len(rows):
            return 1.0
        load = np.maximum(snapshot.waiting[rows] / self._queue, snapshot.kv_used[rows] / self._kv)
        return float(np.where(self._fresh(snapshot, rows, now), load, 1.0).mean())

    def room(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> Room:
        """Every request is taken to wait at its endpoint."""
        load = self.saturation(snapshot, rows, inflight, now)
        return Rising(load, 1.0 / (self._queue * max(1, len(rows))))

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        snapshot = cycle.snapshot
        kept: Bools = (
            (snapshot.waiting[rows] < self._queue * self._headroom)
            & (snapshot.kv_used[rows] < self._kv * self._headroom)
            & self._fresh(snapshot, rows, cycle.now)
        )
        return kept if kept.any() else np.ones(len(rows), dtype=np.bool_)

    def _fresh(self, snapshot: Snapshot, rows: Ints, now: float) -> Bools:
        return snapshot.scraped_at[rows] >= now - max(self._stale_s, snapshot.stale_after_s)


class ConcurrencyParameters(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    max_concurrency: Annotated[
        int, Meta(gt=0, description="our unfinished requests that fill an endpoint")
    ] = 100
    max_token_concurrency: Annotated[
        int, Meta(gt=0, description="our unanswered prompt tokens that fill an endpoint")
    ] = 1_000_000
    concurrency_mode: Annotated[
        Literal["requests", "tokens", "hybrid"], Meta(description="which of the two limits counts")
    ] = "requests"
    headroom: Annotated[
        float, Meta(ge=0, description="as a filter: how far over the limits an endpoint may be")
    ] = 0.0


class ConcurrencyDetector:
    """Our own in-flight work against fixed limits; needs no metrics of the engines."""

    def __init__(self, parameters: ConcurrencyParameters, context: BuildContext | None = None) -> None:
        self._requests = float(parameters.max_concurrency)
        self._tokens = float(parameters.max_token_concurrency)
        self._mode = parameters.concurrency_mode
        self._limit = 1.0 + parameters.headroom

    def saturation(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> float:
        return float(self._load(snapshot.slots[rows], inflight).mean()) if len(rows) else 1.0

    def room(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> Room:
        load, n = self.saturation(snapshot, rows, inflight, now), max(1, len(rows))
        return Rising(
            load,
            0.0 if self._mode == "tokens" else 1.0 / (self._requests * n),
            0.0 if self._mode == "requests" else 1.0 / (self._tokens * n),
        )

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        kept: Bools = self._load(cycle.snapshot.slots[rows], cycle.inflight) < self._limit
        return kept

    def _load(self, slots: Ints, inflight: InflightView) -> Floats:
        requests = inflight.requests(slots) / self._requests
        if self._mode == "requests":
            return requests
        tokens: Floats = (inflight.prefill_tokens(slots) + inflight.decode_tokens(slots)) / self._tokens
        return tokens if self._mode == "tokens" else np.maximum(requests, tokens)


PLUGINS: tuple[PluginType[Any], ...] = (
    PluginType(
        "utilization-detector",
        UtilizationParameters,
        UtilizationDetector,
        "saturation from the engines' queues and KV caches; as a filter, keeps those below",
    ),
    PluginType(
        "concurrency-detector",
        ConcurrencyParameters,
        ConcurrencyDetector,
        "saturation from our own in-flight work; as a filter, keeps endpoints below the limits",
    ),
)
