"""What a process serves of a cluster: one pool, pods alone, or every pool that a selector matches."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from epp.domain.pool import POOL_GROUP, PoolSpec
from epp.kube.selectors import EVERYTHING, Selector


class Source(StrEnum):
    """Where endpoints are read from."""

    PODS = "pods"
    SLICES = "endpointslices"
    """Selectors are matched with the labels of EndpointSlices, which are those of their Service."""


@dataclass(frozen=True, slots=True)
class OnePool:
    """One InferencePool; only objects of its own API group are asked for."""

    namespace: str
    name: str
    group: str = POOL_GROUP
    source: Source = Source.PODS


@dataclass(frozen=True, slots=True)
class PodsAlone:
    """Pods of one namespace, in a cluster without our kinds: no pools and no objectives are asked for."""

    namespace: str
    pool: str
    """What the pool is called in metrics and answers."""
    selector: Selector
    target_ports: tuple[int, ...]
    source: Source = Source.PODS

    def spec(self) -> PoolSpec:
        return PoolSpec(self.namespace, self.pool, str(self.selector), self.target_ports, group="")


@dataclass(frozen=True, slots=True)
class ManyPools:
    """Every pool, of both API groups, in one namespace or (None) in all."""

    namespace: str | None = None
    selector: Selector = EVERYTHING
    """Labels of the pools."""
    pods: Selector = EVERYTHING
    """Labels that all model servers have, so that a busy cluster's other pods are not even listed."""


Selection: TypeAlias = OnePool | PodsAlone | ManyPools
