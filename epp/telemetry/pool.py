"""Gauges of the pool, computed from the current snapshot and the ledger when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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

    def families(self) -> tuple[tuple[str, Callable[[], Iterable[Cell]]], ...]:
        return (
            (table.MEAN_KV.name, lambda: self._mean(lambda s: s.kv_used)),
            (table.MEAN_QUEUE.name, lambda: self._mean(lambda s: s.waiting)),
            (table.MEAN_RUNNING.name, lambda: self._mean(lambda s: s.running)),
            (table.DEV_KV.name, lambda: self._deviation(lambda s: s.kv_used)),
            (table.DEV_QUEUE.name, lambda: self._deviation(lambda s: s.waiting)),
            (table.DEV_RUNNING.name, lambda: self._deviation(lambda s: s.running)),
            (table.READY.name, lambda: [((self.name,), len(self.source.snapshot))]),
            (table.ENDPOINTS.name, self._states),
            (table.METRICS_AGE.name, self._age),
            (table.QUEUE.name, self._queues),
            (table.INFLIGHT_REQUESTS.name, lambda: self._ours(self._requests)),
            (table.INFLIGHT_TOKENS.name, lambda: self._ours(self._tokens)),
        )

    def _fresh(self, column: Callable[[Snapshot], Floats]) -> Floats:
        snapshot = self.source.snapshot
        values: Floats = column(snapshot)[snapshot.scraped_at >= self.clock() - self.fresh_s]
        return values

    def _mean(self, column: Callable[[Snapshot], Floats]) -> list[Cell]:
        values = self._fresh(column)
        return [((self.name,), round(float(values.mean()), 2) if len(values) else 0.0)]

    def _deviation(self, column: Callable[[Snapshot], Floats]) -> list[Cell]:
        values = self._fresh(column)
        return [((self.name,), round(float(values.std(ddof=1)), 2) if len(values) > 1 else 0.0)]

    def _states(self) -> list[Cell]:
        snapshot = self.source.snapshot
        never = snapshot.scraped_at == NEVER
        fresh = snapshot.fresh(self.clock())
        counts = {
            "fresh": np.count_nonzero(fresh),
            "stale": np.count_nonzero(~fresh & ~never),
            "unscraped": np.count_nonzero(never),
            "avoided": np.count_nonzero(~snapshot.available),
        }
        return [((self.name, state), int(count)) for state, count in counts.items()]

    def _age(self) -> list[Cell]:
        snapshot, now = self.source.snapshot, self.clock()
        fresh = snapshot.scraped_at[snapshot.fresh(now)]
        return [((self.name,), round(now - float(np.min(fresh)), 4))] if len(fresh) else []

    def _queues(self) -> list[Cell]:
        snapshot = self.source.snapshot
        # Endpoints of one name in two namespaces share a series, as the labels have no namespace.
        sums: dict[tuple[str, ...], float] = {}
        for endpoint, waiting in zip(snapshot.endpoints, snapshot.waiting.tolist(), strict=True):
            key = (self.name, endpoint.name)
            sums[key] = sums.get(key, 0) + waiting
        return list(sums.items())

    def _requests(self, snapshot: Snapshot) -> Floats:
        return self.inflight.requests(snapshot.slots)

    def _tokens(self, snapshot: Snapshot) -> Floats:
        return self.inflight.prefill_tokens(snapshot.slots) + self.inflight.decode_tokens(snapshot.slots)

    def _ours(self, values: Callable[[Snapshot], Floats]) -> list[Cell]:
        # Fairness id and priority stay empty: the ledger does not keep them apart.
        snapshot = self.source.snapshot
        return [
            ((endpoint.name, endpoint.namespace, PRODUCER, "", ""), value)
            for endpoint, value in zip(snapshot.endpoints, values(snapshot).tolist(), strict=True)
        ]
