"""The flags of `epp serve`, in their units."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from epp.domain.pool import POOL_GROUP
from epp.web.server import WebOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeOptions:
    """Where pools and endpoints are found in a cluster."""

    kubeconfig: Path | None = None
    """None: KUBECONFIG, the pod's service account, or ~/.kube/config."""
    namespace: str = ""
    """Empty for that of the credentials."""
    all_namespaces: bool = False
    """Many pools only."""
    pool_group: str = POOL_GROUP
    endpoint_selector: str = ""
    """Pods by labels instead of an InferencePool; with many, labels that all of their pods have."""
    source: str = "pods"
    """Or `endpointslices`."""
    target_ports: tuple[int, ...] = ()
    many: bool = False
    """Every pool that `pool_selector` takes, instead of the one named."""
    pool_selector: str = ""
    trust_pool_header: bool = False
    """Many pools: a request header may name the pool."""
    elect: bool = False
    """Only the leader of the replicas is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One process. Without `kube` endpoints come from files."""

    pool_name: str = "default"
    bind_address: str = "[::]"
    transport: str = ""
    """`native` or `grpcio`; empty for native where it is installed."""
    grpc_port: int = 9002
    grpc_health_port: int = 9003
    health_checking: bool = False
    grpc_reflection: bool = False
    grpc_max_recv_bytes: int = 0
    grpc_max_send_bytes: int = -1
    stream_metrics: bool = False
    secure_serving: bool = True
    cert_path: Path | None = None
    cert_reload: bool = False
    web: WebOptions = field(default_factory=WebOptions)
    models_port: int | None = None
    """Of GET /v1/models; None for no such listener."""
    drain_timeout_s: float = 30.0
    endpoints_file: Path | None = None
    objectives_path: Path | None = None
    objectives_pool: str = ""
    """Only its objectives count; empty for every pool's."""
    kube: KubeOptions | None = None
    scrape_interval_s: float | None = None
    staleness_s: float = 2.0
    subset_filter: bool = True
    emit_scores: bool = False
    tracing: bool = True
    notices: tuple[str, ...] = ()
