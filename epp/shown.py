"""Pools as the debug pages and the list of models want them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epp.domain.snapshot import Snapshot
from epp.pool import Pool
from epp.web.flow import FlowPage
from epp.web.modellist import PoolModels
from epp.web.pools import Configured


@dataclass(frozen=True, slots=True)
class ShownPool:
    """A PoolPage."""

    pool: Pool

    @property
    def snapshot(self) -> Snapshot:
        return self.pool.known.store.snapshot

    @property
    def flow(self) -> FlowPage:
        return self.pool.page

    @property
    def config(self) -> Configured:
        watch = self.pool.config
        if watch is None:
            return Configured(self.pool.generation.loaded.source, 1)
        return Configured(watch.loaded.source, watch.generation, watch.last_error)

    def plugins_state(self) -> Mapping[str, Any]:
        return self.pool.generation.scheduler.dump_state()

    def missing(self) -> Sequence[str]:
        return self.pool.missing()


@dataclass(frozen=True, slots=True)
class Shown:
    """PoolPages, and a ModelsSource."""

    pools: Callable[[], Iterable[Pool]]
    many: bool = False

    def by_label(self) -> Mapping[str, ShownPool]:
        return {pool.label: ShownPool(pool) for pool in self.pools()}

    def models_of(self) -> Iterable[PoolModels]:
        for pool in self.pools():
            yield PoolModels(pool.label, pool.known.store.snapshot, pool.known.rewrites)
