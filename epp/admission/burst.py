"""Saturation that sees what we sent since the last scrape, so that a burst between two scrapes counts.

Like the reference's utilization detector, with two corrections from our own ledger for each endpoint:

- Requests that we sent since its last scrape, less those that ended, are added to its waiting ones, beyond
  those that its batch has room for: while none waits, up to as many as it was seen to run. Where more ended
  than came, fewer wait: what frees a place is seen at once, too.
- Prompt tokens that we sent since, where the engine tells the size of its KV cache, are added to what is
  used of it.

Two more limits, where they are set, fill an endpoint before anything waits in it: requests that it has, so
that its batch keeps places for who may still come, and prompt tokens that it has not prefilled yet, which is
how long the next one waits for its first token.

The ledger at the time of a scrape is read at the first call that sees the scrape, as for foreign requests:
what is sent between a scrape and that call is missed until the next scrape. So call `see` for each snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from epp.admission.room import Filling, Rising, Room, Term
from epp.admission.saturation import UtilizationParameters
from epp.domain.snapshot import NEVER, Bools, Floats, Ints, Snapshot
from epp.domain.units import duration_s
from epp.domain.views import InflightView
from epp.scheduling.contract import BuildContext, Cycle, PluginType


class BurstParameters(UtilizationParameters, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Those of the utilization detector, and:"""

    assumed_batch: Annotated[
        int, Meta(ge=0, description="requests that an endpoint runs at once before it was seen to run more")
    ] = 16
    max_requests: Annotated[
        int,
        Meta(ge=0, description="requests that fill an endpoint: its batch (max_num_seqs); 0 for no limit"),
    ] = 0
    max_prefill_tokens: Annotated[
        int, Meta(ge=0, description="our unanswered prompt tokens that fill an endpoint; 0 for no limit")
    ] = 0


@dataclass(frozen=True, slots=True)
class _Loads:
    """Of each row, as shares of what fills it; then the places that are free in the batches."""

    terms: tuple[Floats, ...]
    """By waiting requests, KV cache, requests, prompt tokens; the last two only where they are limited."""
    spare: Floats

    @property
    def highest(self) -> Floats:
        highest = self.terms[0]
        for term in self.terms[1:]:
            highest = np.maximum(highest, term)
        return highest


class BurstDetector:
    """Single writer. Columns by slot; rows 0..3 are: when scraped, our requests then, our prompt tokens then,
    and the most requests seen to run."""

    def __init__(self, parameters: BurstParameters, context: BuildContext | None = None) -> None:
        self._queue = float(parameters.queue_depth_threshold)
        self._kv = parameters.kv_cache_util_threshold
        self._requests = float(parameters.max_requests)
        self._prefill = float(parameters.max_prefill_tokens)
        self._limit = 1.0 + parameters.headroom
        self._stale_s = duration_s(parameters.metrics_staleness_threshold)
        self._batch = float(parameters.assumed_batch)
        self._seen = np.zeros((4, 0))

    def see(self, snapshot: Snapshot, inflight: InflightView) -> None:
        """Note our own part of what was scraped since the last call."""
        slots = snapshot.slots
        self._reach(int(np.max(slots)) + 1 if len(slots) else 0)
        new = (snapshot.scraped_at > self._seen[0, slots]).nonzero()[0]
        if not len(new):
            return
        changed = slots[new]
        self._seen[0, changed] = snapshot.scraped_at[new]
        self._seen[1, changed] = inflight.requests(changed)
        self._seen[2, changed] = inflight.prefill_tokens(changed)
        self._seen[3, changed] = np.maximum(self._seen[3, changed], snapshot.running[new])

    def saturation(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> float:
        if not len(rows):
            return 1.0
        self.see(snapshot, inflight)
        return self._mean(snapshot, rows, self._loads(snapshot, rows, inflight), now)

    def room(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> Room:
        """Requests are taken to spread evenly, each to wait once the batches are full."""
        count = len(rows)
        if not count:
            return Rising(1.0, 0.0)
        self.see(snapshot, inflight)
        loads = self._loads(snapshot, rows, inflight)
        queue, kv, *more = [float(term.mean()) for term in loads.terms]
        per_token = float(_per_token(snapshot, rows).mean()) / self._kv / count
        terms = [
            Term(queue, 1.0 / self._queue / count, unloaded=float(loads.spare.sum())),
            Term(kv, 0.0, per_token),
        ]
        if self._requests:
            terms.append(Term(more.pop(0), 1.0 / self._requests / count))
        if self._prefill:
            terms.append(Term(more.pop(0), 0.0, 1.0 / self._prefill / count))
        return Filling(self._mean(snapshot, rows, loads, now), terms)

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        snapshot = cycle.snapshot
        self.see(snapshot, cycle.inflight)
        loads = self._loads(snapshot, rows, cycle.inflight).highest
        kept: Bools = (loads < self._limit) & self._fresh(snapshot, rows, cycle.now)
        return kept if kept.any() else np.ones(len(rows), dtype=np.bool_)

    def forget(self, slot: int) -> None:
        if slot < self._seen.shape[1]:
            self._seen[:, slot] = (NEVER, 0.0, 0.0, self._batch)

    def _loads(self, snapshot: Snapshot, rows: Ints, inflight: InflightView) -> _Loads:
        slots = snapshot.slots[rows]
        scraped, running = snapshot.waiting[rows], snapshot.running[rows]
        came = inflight.requests(slots) - self._seen[1, slots]
        free = np.where(scraped > 0.0, 0.0, np.maximum(self._seen[3, slots] - running, 0.0))
        over = scraped + came - free
        prefill = inflight.prefill_tokens(slots)
        tokens = np.maximum(prefill - self._seen[2, slots], 0.0)
        kv_used = snapshot.kv_used[rows] + tokens * _per_token(snapshot, rows)
        terms = [np.maximum(over, 0.0) / self._queue, kv_used / self._kv]
        if self._requests:
            # Of what we sent the ledger knows more than a scrape: an engine shows it a step later.
            foreign = np.maximum(scraped + running - self._seen[1, slots], 0.0)
            terms.append((inflight.requests(slots) + foreign) / self._requests)
        if self._prefill:
            terms.append(prefill / self._prefill)
        return _Loads(tuple(terms), np.maximum(-over, 0.0))

    def _mean(self, snapshot: Snapshot, rows: Ints, loads: _Loads, now: float) -> float:
        """Which endpoints take the requests and the prompts is ours to choose, so those are taken together;
        what waits or fills a cache stays where it is."""
        fresh = self._fresh(snapshot, rows, now)
        queue, kv, *ours = loads.terms
        return max(float(np.where(fresh, load, 1.0).mean()) for load in (np.maximum(queue, kv), *ours))

    def _fresh(self, snapshot: Snapshot, rows: Ints, now: float) -> Bools:
        fresh: Bools = snapshot.scraped_at[rows] >= now - max(self._stale_s, snapshot.stale_after_s)
        return fresh

    def _reach(self, slots: int) -> None:
        grow = slots - self._seen.shape[1]
        if grow > 0:
            new = np.zeros((4, grow))
            new[0], new[3] = NEVER, self._batch
            self._seen = np.concatenate((self._seen, new), axis=1)


def _per_token(snapshot: Snapshot, rows: Ints) -> Floats:
    """Share of each endpoint's KV cache that a token takes; 0 where its size is not known."""
    tokens = (snapshot.block_size[rows] * snapshot.num_blocks[rows]).astype(np.float64)
    shares: Floats = np.divide(1.0, tokens, out=np.zeros(len(rows)), where=tokens > 0.0)
    return shares


PLUGINS: tuple[PluginType[Any], ...] = (
    PluginType(
        "burst-utilization-detector",
        BurstParameters,
        BurstDetector,
        "saturation from the engines' queues and KV caches and what we sent since they were scraped",
    ),
)
