"""Gauges of the pool, computed from the current snapshot and the ledger when somebody asks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from epp.domain.snapshot import NEVER, Floats, Snapshot
from epp.domain.views import Clock, InflightView, SnapshotSource
from epp.telemetry import table
from epp.telemetry.series import Cell

PRODUCER = "inflight-load-producer"
"""`producer_name` of the in-flight gauges; the ledger stands for the reference's producer of that type."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool. Means leave out endpoints whose metrics are older than `fresh_s`."""

    name: str
    source: SnapshotSource
    inflight: InflightView
    clock: Clock
    fresh_s: float = 2.0

    def read(self) -> tuple[tuple[str, list[Cell]], ...]:
        """Everything, of one snapshot."""
        snapshot, key = self.source.snapshot, (self.name,)
        now = self.clock()
        fresh = snapshot.scraped_at >= now - self.fresh_s
        kv, queue, running = (
            _mean_and_deviation(column[fresh])
            for column in (snapshot.kv_used, snapshot.waiting, snapshot.running)
        )
        return (
            (table.MEAN_KV.name, [(key, kv[0])]),
            (table.MEAN_QUEUE.name, [(key, queue[0])]),
            (table.MEAN_RUNNING.name, [(key, running[0])]),
            (table.DEV_KV.name, [(key, kv[1])]),
            (table.DEV_QUEUE.name, [(key, queue[1])]),
            (table.DEV_RUNNING.name, [(key, running[1])]),
            (table.READY.name, [(key, len(snapshot))]),
            (table.ENDPOINTS.name, self._states(snapshot, now)),
            (table.METRICS_AGE.name, self._age(snapshot, now)),
            (table.QUEUE.name, self._queues(snapshot)),
            (table.INFLIGHT_REQUESTS.name, _ours(snapshot, self.inflight.requests(snapshot.slots))),
            (table.INFLIGHT_TOKENS.name, _ours(snapshot, self._tokens(snapshot))),
        )

    def _states(self, snapshot: Snapshot, now: float) -> list[Cell]:
        never = snapshot.scraped_at == NEVER
        fresh = snapshot.fresh(now)
        counts = {
            "fresh": np.count_nonzero(fresh),
            "stale": np.count_nonzero(~fresh & ~never),
            "unscraped": np.count_nonzero(never),
            "avoided": np.count_nonzero(~snapshot.available),
        }
        return [((self.name, state), int(count)) for state, count in counts.items()]

    def _age(self, snapshot: Snapshot, now: float) -> list[Cell]:
        fresh = snapshot.scraped_at[snapshot.fresh(now)]
        return [((self.name,), round(now - float(np.min(fresh)), 4))] if len(fresh) else []

    def _queues(self, snapshot: Snapshot) -> list[Cell]:
        # Endpoints of one name in two namespaces share a series, as the labels have no namespace.
        sums: dict[tuple[str, ...], float] = {}
        for endpoint, waiting in zip(snapshot.endpoints, snapshot.waiting.tolist(), strict=True):
            key = (self.name, endpoint.name)
            sums[key] = sums.get(key, 0) + waiting
        return list(sums.items())

    def _tokens(self, snapshot: Snapshot) -> Floats:
        return self.inflight.prefill_tokens(snapshot.slots) + self.inflight.decode_tokens(snapshot.slots)


def _ours(snapshot: Snapshot, values: Floats) -> list[Cell]:
    # Fairness id and priority stay empty: the ledger does not keep them apart.
    return [
        ((endpoint.name, endpoint.namespace, PRODUCER, "", ""), value)
        for endpoint, value in zip(snapshot.endpoints, values.tolist(), strict=True)
    ]


def _mean_and_deviation(values: Floats) -> tuple[float, float]:
    """Of the sample; 0 where there is none. In plain floats: most pools are small."""
    count = len(values)
    if not count:
        return 0.0, 0.0
    each = values.tolist()
    mean = sum(each) / count
    if count == 1:
        return round(mean, 2), 0.0
    return round(mean, 2), round((sum((value - mean) ** 2 for value in each) / (count - 1)) ** 0.5, 2)
