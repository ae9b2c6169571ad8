"""Pods that are followed under one selector, or EndpointSlices in their place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from epp.domain.pool import PoolSpec
from epp.kube.following import Follow, Following
from epp.kube.membership import Membership
from epp.kube.pods import Pod, PodWatcher, trim
from epp.kube.resource import PODS
from epp.kube.selection import Source
from epp.kube.slices import SLICES, SliceWatcher, trim_slice


class PodList:
    """A PodSink between an informer and the membership, that can be stopped when another takes its place."""

    def __init__(
        self,
        follow: Follow,
        source: Source,
        membership: Membership,
        whole: Callable[[PodList, Mapping[str, Pod]], None],
        *,
        namespace: str | None,
        labels: str,
        spec: PoolSpec | None,
    ) -> None:
        """`whole` gets each complete list. `spec` is the pool whose selector `labels` is, if it is one's."""
        self._membership = membership
        self._whole = whole
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self.spec = spec
        self.informer: Following
        if source is Source.PODS:
            self.informer = follow(PODS, PodWatcher(self), namespace=namespace, labels=labels, trim=trim)
        else:
            watcher = SliceWatcher(self)
            self.informer = follow(SLICES, watcher, namespace=namespace, labels=labels, trim=trim_slice)

    def start(self, group: asyncio.TaskGroup) -> None:
        self._task = group.create_task(self.informer.run())

    def stop(self) -> None:
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    def listed(self, pods: Mapping[str, Pod]) -> None:
        if not self._stopped:
            self._whole(self, pods)

    def put(self, pod: Pod) -> None:
        if not self._stopped:
            self._membership.put_pod(pod)

    def gone(self, key: str) -> None:
        if not self._stopped:
            self._membership.remove_pod(key)
