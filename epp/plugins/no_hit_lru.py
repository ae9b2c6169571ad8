"""Spreads prompts that nobody has cached: first to endpoints that never got one, then to the least recent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from epp.domain.decision import Decision
from epp.domain.snapshot import Floats, Ints
from epp.plugins.prefix import PREFILL_PROFILE
from epp.plugins.signals import APPROXIMATE_PREFIX, prefix_match
from epp.scheduling.contract import BuildContext, Cycle, PluginType


class NoHitLruParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    lru_size: Annotated[int, Meta(gt=0, description="endpoints remembered")] = 1024
    prefix_match_info_producer_name: Annotated[
        str, Meta(description="producer of prefix matches; empty for the approximate one")
    ] = ""


class NoHitLru:
    """0.5 for all when any candidate has a block of the prompt; else 1 - rank / (n - 1), never below 0.

    Ranks: endpoints that never took a cold prompt in pool order, then the others, least recent first, by
    their place in the whole LRU (so remembered endpoints that are no candidates push ranks up).
    """

    def __init__(self, parameters: NoHitLruParameters, name: str = "no-hit-lru-scorer") -> None:
        self._p = parameters
        self._name = name
        self._used: OrderedDict[int, None] = OrderedDict()

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        count = len(rows)
        match = prefix_match(cycle, self._p.prefix_match_info_producer_name)
        if match is not None and match.matched_blocks[rows].any():
            return np.full(count, 0.5)
        cycle.state[self._name] = True
        if count <= 1:
            return np.ones(count)
        slots = cycle.snapshot.slots
        places = np.full(int(np.max(slots)) + 1, -1.0)
        remembered = np.fromiter(self._used, dtype=np.intp, count=len(self._used))
        known = remembered < len(places)
        places[remembered[known]] = np.flatnonzero(known)
        rank = places[slots[rows]]
        never = rank < 0
        fresh = int(never.sum())
        rank[~never] += fresh
        rank[np.flatnonzero(never)[rows[never].argsort(kind="stable")]] = np.arange(fresh)
        return np.maximum(1.0 - rank / (count - 1), 0.0)

    def chosen(self, cycle: Cycle, decision: Decision) -> None:
        if not cycle.state.get(self._name):
            return
        self._touch(decision.endpoint.slot)
        for run in decision.runs:
            if run.profile == PREFILL_PROFILE != decision.primary and run.picked:
                self._touch(int(decision.snapshot.slots[run.picked[0]]))

    def forget(self, slot: int) -> None:
        self._used.pop(slot, None)

    def dump_state(self) -> Mapping[str, Any]:
        return {"slotsOldestFirst": list(self._used)}

    def _touch(self, slot: int) -> None:
        self._used[slot] = None
        self._used.move_to_end(slot)
        if len(self._used) > self._p.lru_size:
            self._used.popitem(last=False)


def _build(parameters: NoHitLruParameters, context: BuildContext) -> NoHitLru:
    return NoHitLru(parameters, context.name)


PLUGINS = (
    PluginType(
        "no-hit-lru-scorer",
        NoHitLruParameters,
        _build,
        "spreads prompts that no endpoint has cached over the least recently used",
        needs=(APPROXIMATE_PREFIX,),
    ),
)
