"""Objectives and rewrites by the pool that they name, of both API groups.

Where both groups have one of a name, llm-d.ai's counts. They are read by the rules of files (`epp.config`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from epp.config.objects import Kind, Named, read_object
from epp.config.problems import ConfigError, Report
from epp.domain.pool import POOL_GROUP
from epp.kube.objects import Objects, Warnings
from epp.kube.resource import Resource

T = TypeVar("T", bound=Named)
GROUPS = ("llm-d.ai", "inference.networking.x-k8s.io")
"""The first counts."""
_METADATA = ("name", "namespace", "annotations", "creationTimestamp")


class PoolId(NamedTuple):
    """What a poolRef means, together with the namespace that it stands in."""

    namespace: str
    group: str
    name: str


class Item(NamedTuple, Generic[T]):
    pool: PoolId
    item: T


class Attached(Generic[T]):
    """All objects of one kind. `told` gets the pools for which something may have changed."""

    def __init__(
        self, kind: Kind[T], plural: str, told: Callable[[Collection[PoolId]], None], warnings: Warnings
    ) -> None:
        self._kind = kind
        self._told = told
        resources = [Resource(group, "v1alpha2", plural, kind.name) for group in GROUPS]
        self.sources = tuple(Objects(one, self._read, self._changed, warnings) for one in resources)
        """Watchers, one a group."""
        self._keys: dict[PoolId, set[str]] = {}
        self._held: dict[str, Item[T]] = {}
        """By the object's key: the one that counts."""

    def of(self, pool: PoolId) -> Sequence[T]:
        """In the order of their names."""
        return [self._held[key].item for key in sorted(self._keys.get(pool, ()))]

    def _changed(self, changes: Mapping[str, Any]) -> None:
        pools: set[PoolId] = set()
        for key in changes:
            before = self._held.pop(key, None)
            now = next((one.values[key] for one in self.sources if key in one.values), None)
            if before is not None:
                pools.add(before.pool)
                keys = self._keys[before.pool]
                keys.discard(key)
                if not keys:
                    del self._keys[before.pool]
            if now is not None:
                pools.add(now.pool)
                self._keys.setdefault(now.pool, set()).add(key)
                self._held[key] = now
        if pools:
            self._told(pools)

    def _read(self, raw: Mapping[str, Any], report: Report) -> Item[T] | None:
        return read_attached(self._kind, raw, report)


def read_attached(kind: Kind[T], raw: Mapping[str, Any], report: Report) -> Item[T] | None:
    """None for an object that is wrong; `report` has why, and what is odd about one that is not."""
    metadata = raw.get("metadata")
    if isinstance(metadata, Mapping):  # the rest of it is the API server's own
        raw = {**raw, "metadata": {name: metadata[name] for name in _METADATA if name in metadata}}
    try:
        found = read_object(kind, raw, report.source)
    except ConfigError as error:
        report.problems += error.problems
        return None
    report.notices += found.report.notices
    namespace = str(metadata.get("namespace", "")) if isinstance(metadata, Mapping) else ""
    return Item(PoolId(namespace, found.pool.group or POOL_GROUP, found.pool.name), found.item)
