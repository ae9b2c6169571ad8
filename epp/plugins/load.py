"""Scorers and a filter by load: engine metrics and what we ourselves have in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from epp.domain.snapshot import Bools, Floats, Ints, Snapshot
from epp.plugins.signals import inflight_requests, inflight_tokens, uncached_tokens
from epp.scheduling.columns import greatest, least
from epp.scheduling.contract import BuildContext, Cycle, NoParameters, PluginType


def _least_is_best(values: Floats) -> Floats:
    """(max - v) / (max - min) over the candidates; 1 for all when they are equal."""
    if not len(values):
        return values
    low, high = least(values), greatest(values)
    if high == low:
        return np.ones(len(values))
    scores: Floats = (high - values) / (high - low)
    return scores


class Queue:
    """Shorter engine queues score higher, relative to the candidates."""

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        return _least_is_best(cycle.snapshot.waiting[rows])


class RunningRequests:
    """Smaller engine batches score higher, relative to the candidates."""

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        return _least_is_best(cycle.snapshot.running[rows])


class KvCacheUtilization:
    """1 - share of KV-cache blocks in use."""

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        free = 1.0 - cycle.snapshot.kv_used[rows]
        return np.minimum(np.maximum(free, 0.0, out=free), 1.0, out=free)


class LoadAwareParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    threshold: Annotated[int, Meta(gt=0, description="waiting requests from which the score is 0")] = 128


class LoadAware:
    """0.5 for an empty queue, falling to 0 at the threshold."""

    def __init__(self, parameters: LoadAwareParameters) -> None:
        self._threshold = float(parameters.threshold)

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        waiting = np.minimum(cycle.snapshot.waiting[rows], self._threshold)
        scores: Floats = 0.5 * (1.0 - waiting / self._threshold)
        return scores


class TokenLoadParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    queue_threshold_tokens: Annotated[
        int, Meta(gt=0, description="tokens in flight from which the score is 0")
    ] = 4_194_304
    in_flight_load_producer_name: Annotated[str, Meta(description="producer of tokens in flight")] = ""
    prefix_match_info_producer_name: Annotated[str, Meta(description="producer of prefix matches")] = ""


class TokenLoad:
    """1 - min(t, threshold) / threshold with t = tokens in flight + this prompt's uncached tokens."""

    def __init__(self, parameters: TokenLoadParameters) -> None:
        self._p = parameters

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        p = self._p
        tokens = inflight_tokens(cycle, rows, p.in_flight_load_producer_name)
        tokens = tokens + uncached_tokens(cycle, rows, p.prefix_match_info_producer_name)
        scores: Floats = 1.0 - np.minimum(tokens, p.queue_threshold_tokens) / p.queue_threshold_tokens
        return scores


class ActiveRequestParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    idle_threshold: Annotated[
        int, Meta(ge=0, description="requests up to which an endpoint counts as idle")
    ] = 0
    max_busy_score: Annotated[float, Meta(ge=0, le=1, description="score that busy endpoints stay below")] = (
        1.0
    )
    in_flight_load_producer_name: Annotated[
        str, Meta(description="accepted for compatibility: our own ledger counts requests")
    ] = ""
    request_timeout: Annotated[
        str, Meta(description="deprecated and without effect, as in the reference picker")
    ] = ""


class ActiveRequest:
    """Our unfinished requests: 1 up to the idle threshold, else (max - n) / max x maxBusyScore."""

    def __init__(self, parameters: ActiveRequestParameters) -> None:
        self._p = parameters

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        count = inflight_requests(cycle, rows)
        if not len(count):
            return count
        most = greatest(count)
        if most <= self._p.idle_threshold:
            return np.ones(len(count))
        busy: Floats = (most - count) / most * self._p.max_busy_score
        return np.where(count <= self._p.idle_threshold, 1.0, busy)


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    metric: Annotated[
        Literal["active-requests", "running-requests", "waiting-queue", "kv-cache-utilization"],
        Meta(description="what is compared"),
    ]
    max_value: Annotated[float, Meta(ge=0, description="endpoints above it are dropped")]


class UtilizationParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    conditions: Annotated[tuple[Condition, ...], Meta(min_length=1, description="all must hold")]
    fallback_on_empty: Annotated[bool, Meta(description="keep all when none would be left")] = False
    in_flight_load_producer_name: Annotated[
        str, Meta(description="accepted for compatibility: our own ledger counts requests")
    ] = ""


_COLUMNS: dict[str, Callable[[Snapshot], Floats]] = {
    "running-requests": lambda snapshot: snapshot.running,
    "waiting-queue": lambda snapshot: snapshot.waiting,
    "kv-cache-utilization": lambda snapshot: snapshot.kv_used,
}


class Utilization:
    """Drops endpoints of which any metric is above its limit; a metric never scraped counts as 0."""

    def __init__(self, parameters: UtilizationParameters) -> None:
        self._p = parameters

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        kept = np.ones(len(rows), dtype=np.bool_)
        for condition in self._p.conditions:
            column = _COLUMNS.get(condition.metric)
            values = inflight_requests(cycle, rows) if column is None else column(cycle.snapshot)[rows]
            kept &= values <= condition.max_value
        if self._p.fallback_on_empty and not kept.any():
            kept[:] = True
        return kept


def _plain(plugin: Callable[[], object]) -> Callable[[NoParameters, BuildContext], object]:
    return lambda parameters, context: plugin()


PLUGINS = (
    PluginType("queue-scorer", NoParameters, _plain(Queue), "shorter engine queues score higher"),
    PluginType(
        "running-requests-size-scorer", NoParameters, _plain(RunningRequests), "smaller batches score higher"
    ),
    PluginType(
        "kv-cache-utilization-scorer", NoParameters, _plain(KvCacheUtilization), "free share of the KV cache"
    ),
    PluginType(
        "load-aware-scorer",
        LoadAwareParameters,
        lambda parameters, context: LoadAware(parameters),
        "0.5 for an empty engine queue, falling to 0 at a threshold",
    ),
    PluginType(
        "token-load-scorer",
        TokenLoadParameters,
        lambda parameters, context: TokenLoad(parameters),
        "fewer tokens in flight score higher",
        needs=("approx-prefix-cache-producer",),
    ),
    PluginType(
        "active-request-scorer",
        ActiveRequestParameters,
        lambda parameters, context: ActiveRequest(parameters),
        "fewer of our own unfinished requests score higher",
    ),
    PluginType(
        "utilization-filter",
        UtilizationParameters,
        lambda parameters, context: Utilization(parameters),
        "drops endpoints above limits of load",
        alpha=True,
    ),
)
