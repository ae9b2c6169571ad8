"""The filters of the reference picker's first releases, for configurations that still name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from epp.domain.snapshot import Bools, Floats, Ints, Snapshot
from epp.scheduling.columns import greatest, least
from epp.scheduling.contract import BuildContext, Cycle, NoParameters, PluginType


class LowQueueParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    threshold: Annotated[int, Meta(ge=0, description="waiting requests up to which an endpoint is kept")] = (
        128
    )


class LowQueue:
    """Keeps endpoints with short queues."""

    def __init__(self, parameters: LowQueueParameters, context: BuildContext) -> None:
        self._threshold = parameters.threshold

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        kept: Bools = cycle.snapshot.waiting[rows] <= self._threshold
        return kept


class LeastOf:
    """Keeps what falls into the first part when [min, max] of a column is cut into as many parts as rows."""

    def __init__(self, column: Callable[[Snapshot], Floats]) -> None:
        self._column = column

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        if not len(rows):
            return np.ones(0, dtype=np.bool_)
        values = self._column(cycle.snapshot)[rows]
        lowest = least(values)
        kept: Bools = values <= lowest + (greatest(values) - lowest) / len(rows)
        return kept


class LoraFilterParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    threshold: Annotated[
        float, Meta(ge=0, le=1, description="probability of keeping to endpoints that have the adapter")
    ] = 0.999


class LoraFilter:
    """Keeps endpoints that have the adapter, now and then those with room for it instead; all if neither."""

    def __init__(self, parameters: LoraFilterParameters, context: BuildContext) -> None:
        self._threshold = parameters.threshold

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        name, pool = cycle.request.target_model, cycle.snapshot
        chosen = rows.tolist()
        has = [name in pool.lora_running[row] or name in pool.lora_waiting[row] for row in chosen]
        room = [
            not held and len(pool.lora_running[row]) + len(pool.lora_waiting[row]) < pool.lora_max[row]
            for row, held in zip(chosen, has, strict=True)
        ]
        if any(has) and any(room):
            return np.asarray(has if cycle.rng.random() < self._threshold else room, dtype=np.bool_)
        if any(has) or any(room):
            return np.asarray(has if any(has) else room, dtype=np.bool_)
        return np.ones(len(rows), dtype=np.bool_)


def _least_queue(parameters: NoParameters, context: BuildContext) -> LeastOf:
    return LeastOf(lambda snapshot: snapshot.waiting)


def _least_kv_cache(parameters: NoParameters, context: BuildContext) -> LeastOf:
    return LeastOf(lambda snapshot: snapshot.kv_used)


PLUGINS = (
    PluginType("low-queue-filter", LowQueueParameters, LowQueue, "keeps endpoints with short engine queues"),
    PluginType("least-queue-filter", NoParameters, _least_queue, "keeps the shortest engine queues"),
    PluginType("least-kv-cache-filter", NoParameters, _least_kv_cache, "keeps the emptiest KV caches"),
    PluginType(
        "lora-affinity-filter", LoraFilterParameters, LoraFilter, "keeps endpoints with the LoRA adapter"
    ),
)
