"""Which pods are in which pools, kept as both change. Pure.

A pod's change costs what the pools that it touches cost, however many others there are: pools are found by
one label that their pods must have, of several the one that the fewest pools are found by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

from epp.domain.endpoint import EndpointSpec
from epp.domain.pool import PoolSpec
from epp.kube.pods import Pod, endpoints, mistakes
from epp.kube.selectors import Selector, parse

_ANY = ("", "")
"""Where pools are found whose selector asks for no exact label."""


@dataclass(slots=True, eq=False)
class _Pool:
    spec: PoolSpec
    selector: Selector
    anchor: tuple[str, str] = _ANY
    members: dict[str, tuple[EndpointSpec, ...]] = field(default_factory=dict)
    """By the pod's key; only pods that are endpoints now."""


_Index: TypeAlias = dict[str, dict[tuple[str, str], dict[str, _Pool]]]
"""Pools by namespace, anchor and key."""


class Membership:
    def __init__(self, touched: Callable[[str, bool], None], mistaken: Callable[[Pod, str], None]) -> None:
        """`touched` is told the pool's key, and whether an endpoint went or changed; else some were added.

        `mistaken` gets what is wrong with a pod's annotations.
        """
        self._touched = touched
        self._mistaken = mistaken
        self._pools: dict[str, _Pool] = {}
        self._index: _Index = {}
        self._pods: dict[str, dict[str, Pod]] = {}
        """By namespace and key."""
        self._pools_of: dict[str, tuple[_Pool, ...]] = {}
        """By pod: those that it is an endpoint of."""
        self._said: dict[str, tuple[str, ...]] = {}

    def endpoints(self, pool: str) -> list[EndpointSpec]:
        return list(chain.from_iterable(self._pools[pool].members.values()))

    def set_pools(self, came: Sequence[PoolSpec], went: Iterable[str] = ()) -> None:
        """`came` are new, or take the place of those of the same key."""
        made: dict[str, _Pool] = {}
        for spec in came:
            made[spec.key] = _Pool(spec, parse(spec.selector))
        for key in (*went, *made):
            old = self._pools.pop(key, None)
            if old is not None:
                self._unindex(old)
                for member in old.members:
                    self._pools_of[member] = tuple(one for one in self._pools_of[member] if one is not old)
        new: _Index = {}
        for key, pool in made.items():
            self._pools[key] = pool
            self._anchor(pool)
            new.setdefault(pool.spec.namespace, {}).setdefault(pool.anchor, {})[key] = pool
        for namespace in new:
            for pod in self._pods.get(namespace, {}).values():
                for pool in _matching(new, pod):
                    self._join(pool, pod)
        for key in made:
            self._touched(key, True)

    def replace_pods(self, pods: Mapping[str, Pod]) -> None:
        """All that there are."""
        for key in [key for held in self._pods.values() for key in held if key not in pods]:
            self.remove_pod(key)
        for pod in pods.values():
            self.put_pod(pod)

    def put_pod(self, pod: Pod) -> None:
        held = self._pods.setdefault(pod.namespace, {})
        key = pod.key
        if held.get(key) == pod:
            return
        held[key] = pod
        before = self._pools_of.pop(key, ())
        now = tuple(_matching(self._index, pod))
        for pool in before:
            if pool not in now:
                self._leave(pool, key)
        for pool in now:
            self._join(pool, pod)

    def remove_pod(self, key: str) -> None:
        namespace = key.partition("/")[0]
        held = self._pods.get(namespace, {})
        if held.pop(key, None) is not None and not held:
            del self._pods[namespace]
        self._said.pop(key, None)
        for pool in self._pools_of.pop(key, ()):
            self._leave(pool, key)

    def _join(self, pool: _Pool, pod: Pod) -> None:
        """A pod that the pool's selector matches, and that may be in it already."""
        key = pod.key
        if pod.active_ports is not None or pod.metrics_port is not None:
            self._say(pod, pool.spec)
        now = endpoints(pod, pool.spec)
        if not now:
            self._leave(pool, key)
            return
        before = pool.members.get(key, ())
        pool.members[key] = now
        self._pools_of[key] = (*self._pools_of.get(key, ()), pool)
        if now != before:
            self._touched(pool.spec.key, any(one not in now for one in before))

    def _say(self, pod: Pod, pool: PoolSpec) -> None:
        """What its annotations have wrong, once."""
        said = tuple(mistakes(pod, pool))
        if said != self._said.get(pod.key, ()):
            self._said[pod.key] = said
            for mistake in said:
                self._mistaken(pod, mistake)

    def _leave(self, pool: _Pool, pod: str) -> None:
        if pool.members.pop(pod, None) is not None:
            self._touched(pool.spec.key, True)

    def _anchor(self, pool: _Pool) -> None:
        held = self._index.setdefault(pool.spec.namespace, {})
        pool.anchor = min(pool.selector.pairs, key=lambda pair: len(held.get(pair, ())), default=_ANY)
        held.setdefault(pool.anchor, {})[pool.spec.key] = pool

    def _unindex(self, pool: _Pool) -> None:
        held = self._index[pool.spec.namespace]
        del held[pool.anchor][pool.spec.key]
        if not held[pool.anchor]:
            del held[pool.anchor]
        if not held:
            del self._index[pool.spec.namespace]


def _matching(index: _Index, pod: Pod) -> Iterator[_Pool]:
    held = index.get(pod.namespace)
    if held is None or not pod.ready:
        return
    for anchor in (_ANY, *pod.labels.items()):
        for pool in held.get(anchor, {}).values():
            if pool.selector.matches(pod.labels):
                yield pool
