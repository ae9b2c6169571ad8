"""A pool of model servers as a cluster declares it, without the object of any API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from epp.domain.endpoint import NO_LABELS

POOL_GROUP = "inference.networking.k8s.io"
"""Of InferencePool v1; what a reference to a pool means when it names no group."""
LEGACY_POOL_GROUP = "inference.networking.x-k8s.io"
"""Of InferencePool v1alpha2."""
POOL_GROUPS = (POOL_GROUP, LEGACY_POOL_GROUP)
MAX_TARGET_PORTS = 8
"""As the CRD has it."""
PICKER_PORT = 9002
"""What v1alpha2 means where a pool names no port of its picker."""


class FailureMode(StrEnum):
    """What the gateway does when the picker does not answer."""

    OPEN = "FailOpen"
    CLOSE = "FailClose"


class AppProtocol(StrEnum):
    """What the model servers speak on every target port."""

    HTTP = "http"
    H2C = "kubernetes.io/h2c"


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """An InferencePool, or what stands for one where pods are found by a selector alone."""

    namespace: str
    name: str
    selector: str
    """Which pods are in the pool, written as Kubernetes writes label selectors: `app=vllm,tier in (a,b)`."""
    target_ports: tuple[int, ...]
    """Each is an endpoint of its own on every pod, its rank being the place here."""
    group: str = POOL_GROUP
    """Empty for a pool that no object declares."""
    app_protocol: AppProtocol = AppProtocol.HTTP
    picker_service: str = ""
    """Service of the endpoint picker that the pool names; empty where it names none."""
    picker_port: int = 0
    failure_mode: FailureMode = FailureMode.CLOSE
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    annotations: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


def service_of(authority: str) -> str:
    """`name.namespace` of the Service that a gateway's call names: `picker.default.svc.cluster.local:9002`,
    or the name that Istio gives its clusters, `outbound|9002||picker.default.svc.cluster.local`."""
    return ".".join(authority.rpartition("|")[2].partition(":")[0].lower().split(".")[:2])
