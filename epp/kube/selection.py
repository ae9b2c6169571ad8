"""What a process serves of a cluster: one pool, pods alone, or every pool that a selector matches."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from epp.config.problems import choices
from epp.domain.pool import MAX_TARGET_PORTS, POOL_GROUP, POOL_GROUPS, PoolSpec
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

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.group not in POOL_GROUPS:
            raise ValueError(f"'{self.group}' has no InferencePool; it is {choices(POOL_GROUPS)}")


@dataclass(frozen=True, slots=True)
class PodsAlone:
    """Pods of one namespace, in a cluster without our kinds: no pools and no objectives are asked for."""

    namespace: str
    pool: str
    """What the pool is called in metrics and answers."""
    selector: Selector
    target_ports: tuple[int, ...]
    source: Source = Source.PODS

    def __post_init__(self) -> None:
        """Raises ValueError."""
        ports = self.target_ports
        if not 1 <= len(ports) <= MAX_TARGET_PORTS or len(set(ports)) < len(ports):
            raise ValueError(f"target ports {ports}: 1 to {MAX_TARGET_PORTS} ports, each once")
        for port in ports:
            if not 1 <= port <= 65535:
                raise ValueError(f"target port {port}: a port is a number from 1 to 65535")
        if self.selector == EVERYTHING:
            raise ValueError("a selector without conditions is every pod of the namespace; name their labels")

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
