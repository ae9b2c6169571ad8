"""A cluster without an API server: lists that a test fills, followed as real ones are; a world that notes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from epp.domain.endpoint import EndpointSpec
from epp.domain.objective import Objective
from epp.domain.pool import PoolSpec
from epp.domain.rewrite import Rewrite
from epp.kube import selectors
from epp.kube.following import Watcher
from epp.kube.resource import Resource

Raw = Mapping[str, Any]


class FakeInformer:
    """Follows one list of a FakeCluster, told in the same turn."""

    def __init__(
        self,
        cluster: FakeCluster,
        resource: Resource,
        watcher: Watcher,
        namespace: str | None,
        labels: str,
        fields: str,
        trim: Callable[[Raw], Raw] | None,
    ) -> None:
        self._cluster = cluster
        self.resource = resource
        self.watcher = watcher
        self.namespace = namespace
        self.labels = labels
        self.fields = fields
        self._trim = trim
        self.synced = False
        self.absent = False
        self.trouble = ""
        self._listed: set[str] = set()

    async def run(self) -> None:
        self._cluster.running.append(self)
        try:
            if self._cluster.lists:
                self.relist()
            await asyncio.Event().wait()
        finally:
            self._cluster.running.remove(self)

    def relist(self) -> None:
        if self.resource in self._cluster.unknown:
            self.absent = True
        elif self.resource in self._cluster.refused:
            self.trouble = f"{self.resource} are forbidden"
            return
        found = {
            key: self._shown(raw)
            for key, raw in self._cluster.objects.get(self.resource, {}).items()
            if self._wants(key, raw)
        }
        self._listed = set(found)
        self.synced, self.trouble = True, ""
        self.watcher.replaced(found)

    def see(self, key: str, raw: Raw | None) -> None:
        if not self.synced:
            return
        if raw is not None and self._wants(key, raw):
            self._listed.add(key)
            self.watcher.changed(key, self._shown(raw))
        elif key in self._listed:  # as a watch with a selector tells what no longer matches
            self._listed.discard(key)
            self.watcher.removed(key)

    def _shown(self, raw: Raw) -> Raw:
        return self._trim(raw) if self._trim is not None else raw

    def _wants(self, key: str, raw: Raw) -> bool:
        namespace, _, name = key.partition("/")
        return (
            self.namespace in (None, namespace)
            and self.fields in ("", f"metadata.name={name}")
            and selectors.parse(self.labels).matches(raw["metadata"].get("labels") or {})
        )


class FakeCluster:
    """Objects by resource and key. `follow` is a Follow."""

    def __init__(self, *, lists: bool = True) -> None:
        self.lists = lists
        """Whether new informers list at once, or when `relist` is called."""
        self.objects: dict[Resource, dict[str, Raw]] = {}
        self.running: list[FakeInformer] = []
        self.unknown: set[Resource] = set()
        self.refused: set[Resource] = set()

    def follow(
        self,
        resource: Resource,
        watcher: Watcher,
        *,
        namespace: str | None,
        labels: str = "",
        fields: str = "",
        trim: Callable[[Raw], Raw] | None = None,
    ) -> FakeInformer:
        return FakeInformer(self, resource, watcher, namespace, labels, fields, trim)

    def of(self, resource: Resource) -> list[FakeInformer]:
        return [one for one in self.running if one.resource == resource]

    def put(self, resource: Resource, *raws: Raw) -> None:
        for raw in raws:
            key = f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"
            self.objects.setdefault(resource, {})[key] = raw
            for informer in self.of(resource):
                informer.see(key, raw)

    def delete(self, resource: Resource, key: str) -> None:
        del self.objects[resource][key]
        for informer in self.of(resource):
            informer.see(key, None)


class NotingView:
    """A PoolView with what it was told last."""

    def __init__(self) -> None:
        self.endpoints: Sequence[EndpointSpec] | None = None
        self.times = 0
        """How often endpoints were told."""
        self.objectives: Mapping[str, Objective] = {}
        self.rewrites: Sequence[Rewrite] = ()

    def set_endpoints(self, specs: Sequence[EndpointSpec]) -> None:
        self.endpoints = specs
        self.times += 1

    def set_objectives(self, by_name: Mapping[str, Objective]) -> None:
        self.objectives = by_name

    def set_rewrites(self, rewrites: Sequence[Rewrite]) -> None:
        self.rewrites = rewrites

    @property
    def names(self) -> list[str] | None:
        """Of the endpoints; None before any were told."""
        return None if self.endpoints is None else sorted(one.name for one in self.endpoints)


class NotingWorld:
    """A PoolWorld."""

    def __init__(self) -> None:
        self.views: dict[str, NotingView] = {}
        """Of the pools that are there."""
        self.specs: dict[str, PoolSpec] = {}
        self.log: list[tuple[str, str]] = []

    def pool_came(self, pool: PoolSpec) -> NotingView:
        assert pool.key not in self.views
        self.log.append(("came", pool.key))
        self.specs[pool.key] = pool
        view = self.views[pool.key] = NotingView()
        return view

    def pool_changed(self, pool: PoolSpec) -> None:
        assert self.specs[pool.key] != pool
        self.log.append(("changed", pool.key))
        self.specs[pool.key] = pool

    def pool_went(self, namespace: str, name: str) -> None:
        key = f"{namespace}/{name}"
        self.log.append(("went", key))
        del self.views[key], self.specs[key]


class NotedWarnings:
    """A Warnings."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, str, str]] = []
        """Kind, name, reason, message."""

    def warn(self, resource: Resource, metadata: Mapping[str, Any], reason: str, message: str) -> None:
        self.said.append((resource.kind, str(metadata["name"]), reason, message))
