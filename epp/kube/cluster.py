"""Follows what a selection names in a cluster, and tells whoever serves pools of them and what is in them.

Endpoints are told only of pods that were listed whole. What goes or changes is told at the next turn of the
event loop; what is added may wait a moment for more, so that a rollout costs little. While the API is away,
all stays as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from epp.config.objectives import OBJECTIVE
from epp.config.problems import ConfigError
from epp.config.rewrites import REWRITE
from epp.domain.endpoint import EndpointSpec
from epp.domain.pool import PoolSpec
from epp.kube.attached import Attached, PoolId
from epp.kube.following import Follow, Following, PoolView, PoolWorld
from epp.kube.membership import Membership
from epp.kube.objects import Objects, Warnings
from epp.kube.podlist import PodList
from epp.kube.pods import Pod
from epp.kube.pools import LEGACY_POOLS, POOLS, read_legacy_pool, read_pool
from epp.kube.resource import PODS, Resource
from epp.kube.selection import ManyPools, OnePool, PodsAlone, Selection, Source
from epp.kube.telling import ADDED_S, Telling

MAX_POOLS = 10_000
AGAIN_S = 10.0
"""A pool that could not be served is tried again so often: what it lacked may have come."""
log = logging.getLogger("epp.kube")


class Cluster:
    """`run` it; `missing` says why what it tells is not to be served yet."""

    def __init__(
        self,
        follow: Follow,
        selection: Selection,
        world: PoolWorld,
        warnings: Warnings,
        *,
        added_s: float = ADDED_S,
        again_s: float = AGAIN_S,
    ) -> None:
        """`follow` is `partial(Informer, kube)`. Endpoints that are only added wait `added_s` for others."""
        self._again_s = again_s
        self._follow = follow
        # Of many pools only pods tell which they are in: one pod may stand in the slices of several Services.
        self._source = Source.PODS if isinstance(selection, ManyPools) else selection.source
        self._selection = selection
        self._world = world
        self._warnings = warnings
        self._objectives = Attached(OBJECTIVE, "inferenceobjectives", self._attached_changed, warnings)
        self._rewrites = Attached(REWRITE, "inferencemodelrewrites", self._attached_changed, warnings)
        self._pools = tuple(
            Objects(resource, read, self._pools_changed, warnings)
            for resource, read in _kinds_of_pools(selection)
        )
        """Where two groups have a pool of one name, the first counts."""
        self._membership = Membership(self._touched, self._mistaken)
        self._telling = Telling(self._membership.endpoints, self._tell_endpoints, added_s)
        self._views: dict[str, PoolView] = {}
        self._specs: dict[str, PoolSpec] = {}
        """As the world knows them; by `namespace/name`, as the views."""
        self._left_out: set[str] = set()
        self._unserved: dict[str, str] = {}
        """Pools that could not be served, and why."""
        self._again: asyncio.TimerHandle | None = None
        self._twice: set[str] = set()
        self._informers: list[tuple[Resource, Following]] = []
        """Of all but pods."""
        self._pods: PodList | None = None
        """Whose pods are told now."""
        self._next_pods: PodList | None = None
        """Takes over once its list is whole."""
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._start(group)
        finally:
            if self._again is not None:
                self._again.cancel()

    def missing(self) -> Sequence[str]:
        """Why it is not ready, in words; empty when it is, and then an API that is away changes nothing."""
        if self._group is None:
            return ("the cluster is not followed yet",)
        absent = [resource for resource, one in self._pool_informers() if one.absent]
        if self._pools and len(absent) == len(self._pools):
            return (
                f"the API server does not know {' or '.join(map(str, absent))}: install the CRDs of the "
                "Gateway API Inference Extension, or serve pods alone by --endpoint-selector",
            )
        said = [
            one.trouble or f"{resource} are not listed yet"
            for resource, one in self._informers
            # A list that is refused holds nobody up but that of pools: it may be of a group that nobody uses.
            if not (one.synced or one.absent) and (not one.trouble or resource == self._pools[0].resource)
        ]
        if not said and isinstance(self._selection, OnePool) and not self._specs:
            said.append(self._no_pool(self._selection))
        elif not said and self._pods is None:
            trouble = self._next_pods.informer.trouble if self._next_pods is not None else ""
            said.append(trouble or f"{self._source.value} are not listed yet")
        return said

    def trouble(self) -> Sequence[str]:
        """Which lists are not followed right now, and why; routing goes on with what was known."""
        informers = [one for _, one in self._informers]
        informers += [one.informer for one in (self._pods, self._next_pods) if one is not None]
        return [one.trouble for one in informers if one.trouble]

    # -- what is followed ----------------------------------------------------------------------------------

    def _start(self, group: asyncio.TaskGroup) -> None:
        selection = self._selection
        if isinstance(selection, PodsAlone):
            self._pod_list(str(selection.selector), selection.spec())
            self._settle_one(selection.spec())
            return
        fields = f"metadata.name={selection.name}" if isinstance(selection, OnePool) else ""
        labels = str(selection.selector) if isinstance(selection, ManyPools) else ""
        for pools in self._pools:
            made = self._follow(
                pools.resource, pools, namespace=selection.namespace, labels=labels, fields=fields
            )
            self._informers.append((pools.resource, made))
        for source in (*self._objectives.sources, *self._rewrites.sources):
            made = self._follow(source.resource, source, namespace=selection.namespace)
            self._informers.append((source.resource, made))
        for _, informer in self._informers:
            group.create_task(informer.run())
        if isinstance(selection, ManyPools):
            self._pod_list(str(selection.pods), None)

    def _pod_list(self, labels: str, spec: PoolSpec | None) -> None:
        """Follow these pods; what is told of the ones before stays until all of these are known."""
        if self._next_pods is not None:
            self._next_pods.stop()
        assert self._group is not None
        self._next_pods = PodList(
            self._follow,
            self._source,
            self._membership,
            self._adopt,
            namespace=self._selection.namespace,
            labels=labels,
            spec=spec,
        )
        self._next_pods.start(self._group)

    def _adopt(self, pods: PodList, listed: Mapping[str, Pod]) -> None:
        if pods is self._next_pods:
            if self._pods is not None:
                self._pods.stop()
            self._pods, self._next_pods = pods, None
            if pods.spec is not None:
                self._membership.set_pools([pods.spec])
            self._telling.open = True
            self._membership.replace_pods(listed)
            self._telling.now(self._specs)
            return
        self._membership.replace_pods(listed)
        self._telling.now()

    # -- pools ---------------------------------------------------------------------------------------------

    def _pools_changed(self, changes: Collection[str]) -> None:
        first, *others = self._pools
        if not first.whole:
            return  # what counts in case of doubt is not known yet
        keys = set(changes)
        if not self._specs:
            keys.update(first.values, *(one.values for one in others))
        self._settle(keys)

    def _settle(self, keys: Collection[str]) -> None:
        came: list[PoolSpec] = []
        moved: list[PoolSpec] = []
        went: list[str] = []
        for key in keys:
            now = self._pool_of(key)
            before = self._specs.get(key)
            if now == before:
                self._left_out.discard(key)
                self._unserved.pop(key, None)
            elif now is None:
                went.append(key)
            elif before is not None:
                self._specs[key] = now
                self._world.pool_changed(now)
                if (now.selector, now.target_ports) != (before.selector, before.target_ports):
                    moved.append(now)
                if now.group != before.group:
                    self._tell_attached(now)
            elif len(self._specs) + len(came) - len(went) >= MAX_POOLS:
                if not self._left_out:
                    log.error("more than %d pools: %s and others are not served", MAX_POOLS, key)
                self._left_out.add(key)
            else:
                came.append(now)
        for key in went:
            spec = self._specs.pop(key)
            del self._views[key]
            self._telling.gone(key)
            log.info("pool %s is gone", key)
            self._world.pool_went(spec.namespace, spec.name)
        came = [spec for spec in came if self._came(spec)]
        if isinstance(self._selection, OnePool):
            if went:
                self._membership.set_pools((), went)
                self._drop_pods()
            for spec in (*came, *moved):
                self._follow_pods_of(spec)
            return
        self._membership.set_pools((*came, *moved), went)
        if went and self._left_out:
            self._settle(sorted(self._left_out)[: len(went)])

    def _settle_one(self, spec: PoolSpec) -> None:
        self._came(spec)
        self._membership.set_pools([spec])

    def _came(self, spec: PoolSpec) -> bool:
        """Whether it is served."""
        try:
            view = self._world.pool_came(spec)
        except Exception as error:  # one pool must not hold up the others
            self._not_served(spec, error)
            return False
        ports = ", ".join(map(str, spec.target_ports))
        log.info("pool %s: pods %s, ports %s", spec.key, spec.selector, ports)
        self._specs[spec.key] = spec
        self._views[spec.key] = view
        self._tell_attached(spec)
        self._left_out.discard(spec.key)
        self._unserved.pop(spec.key, None)
        return True

    def _not_served(self, spec: PoolSpec, error: Exception) -> None:
        """Said once; tried again until it is, or is gone."""
        why = str(error) or type(error).__name__
        if self._unserved.get(spec.key) != why:
            expected = isinstance(error, ConfigError | ValueError | OSError)
            log.error("pool %s is not served: %s", spec.key, why, exc_info=None if expected else error)
            metadata = {"namespace": spec.namespace, "name": spec.name, "uid": spec.uid}
            resource = LEGACY_POOLS if spec.group == LEGACY_POOLS.group else POOLS
            self._warnings.warn(resource, metadata, "PoolNotServed", why)
        self._unserved[spec.key] = why
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(self._again_s, self._try_again)

    def _try_again(self) -> None:
        self._again = None
        self._settle(tuple(self._unserved))

    def _pool_of(self, key: str) -> PoolSpec | None:
        found = [one.values[key] for one in self._pools if key in one.values]
        if len(found) < 2:
            self._twice.discard(key)
        elif key not in self._twice:
            self._twice.add(key)
            words = "two InferencePools are called %s: that of %s counts, that of %s does not"
            log.warning(words, key, found[0].group, found[1].group)
        return found[0] if found else None

    def _follow_pods_of(self, spec: PoolSpec) -> None:
        """The one pool's: its selector is asked of the API server."""
        following = self._next_pods or self._pods
        if following is None or following.spec is None or following.spec.selector != spec.selector:
            self._pod_list(spec.selector, spec)
            return
        following.spec = spec
        if following is self._pods:
            self._membership.set_pools([spec])

    def _drop_pods(self) -> None:
        for one in (self._pods, self._next_pods):
            if one is not None:
                one.stop()
        self._pods = self._next_pods = None
        self._telling.open = False
        self._membership.replace_pods({})

    # -- what is told --------------------------------------------------------------------------------------

    def _attached_changed(self, pools: Collection[PoolId]) -> None:
        for pool in pools:
            spec = self._specs.get(f"{pool.namespace}/{pool.name}")
            if spec is not None and spec.group == pool.group:
                self._tell_attached(spec)

    def _tell_attached(self, spec: PoolSpec) -> None:
        view, pool = self._views[spec.key], PoolId(spec.namespace, spec.group, spec.name)
        view.set_objectives({one.name: one for one in self._objectives.of(pool)})
        view.set_rewrites(self._rewrites.of(pool))

    def _tell_endpoints(self, pool: str, endpoints: Sequence[EndpointSpec]) -> None:
        self._views[pool].set_endpoints(endpoints)

    def _touched(self, pool: str, urgent: bool) -> None:
        if pool in self._specs:
            self._telling.touched(pool, urgent)

    def _mistaken(self, pod: Pod, mistake: str) -> None:
        log.warning("pod %s: %s", pod.key, mistake)
        metadata = {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
        self._warnings.warn(PODS, metadata, "InvalidAnnotation", mistake)

    def _pool_informers(self) -> Sequence[tuple[Resource, Following]]:
        return self._informers[: len(self._pools)]

    def _no_pool(self, selection: OnePool) -> str:
        (pools,) = self._pools
        namespace, name, group = selection.namespace, selection.name, selection.group
        wrong = pools.bad.get(f"{namespace}/{name}")
        if wrong:
            return f"InferencePool {namespace}/{name} cannot be used: {wrong}"
        see = f"kubectl get inferencepools.{group} -n {namespace}"
        return f"there is no InferencePool {name} in namespace {namespace} (group {group}); see {see}"


def _kinds_of_pools(selection: Selection) -> Sequence[tuple[Resource, Callable[..., PoolSpec | None]]]:
    both = (POOLS, read_pool), (LEGACY_POOLS, read_legacy_pool)
    if isinstance(selection, OnePool):
        return [one for one in both if one[0].group == selection.group]
    return both if isinstance(selection, ManyPools) else ()
