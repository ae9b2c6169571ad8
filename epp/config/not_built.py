"""Plugin types and blocks of the reference picker's format that are known here but not built yet, and why.

A configuration that names one is refused with these words instead of a spelling hint; `epp plugins --all`
lists them. A type leaves this table when its row enters the catalog.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_DISAGGREGATION = "prefill/decode disaggregation is not built"
_PREDICTION = "predicted latency is not built"
_KV_EVENTS = "the index of KV-cache events is not built"
_TOPOLOGY = "topology is not read from any source"
_MULTICLUSTER = "pools of several clusters are not built"
CUSTOM_METRICS = "endpoint attributes from custom metrics are not built"
_IDENTITY = "identity from headers is not built"
_MULTIMODAL = "the encoder cache is not tracked"
_BURSTS = "holding requests back to group them is not built"

NOT_BUILT: Mapping[str, str] = MappingProxyType(
    {
        "decision-tree-filter": "trees of filters are not built; list the filters in a profile",
        "disagg-profile-handler": _DISAGGREGATION,
        "pd-profile-handler": _DISAGGREGATION,
        "data-parallel-profile-handler": "target ports are endpoints already; no header for a rank is set",
        "disagg-headers-handler": _DISAGGREGATION,
        "prefill-header-handler": _DISAGGREGATION,
        "always-disagg-pd-decider": _DISAGGREGATION,
        "always-disagg-multimodal-decider": _DISAGGREGATION,
        "prefix-based-pd-decider": _DISAGGREGATION,
        "precise-prefix-cache-scorer": _KV_EVENTS,
        "precise-prefix-cache-producer": _KV_EVENTS,
        "p2p-source-producer": _KV_EVENTS,
        "mm-embeddings-cache-scorer": _MULTIMODAL,
        "mm-embeddings-cache-producer": _MULTIMODAL,
        "latency-scorer": _PREDICTION,
        "predicted-latency-scorer": _PREDICTION,
        "predicted-latency-producer": _PREDICTION,
        "slo-headroom-tier-filter": _PREDICTION,
        "latency-slo-admitter": _PREDICTION,
        "probabilistic-admitter": "admission plugins are not built",
        "endpoint-attribute-scorer": CUSTOM_METRICS,
        "endpoint-attribute-filter": CUSTOM_METRICS,
        "topology-affinity-scorer": _TOPOLOGY,
        "topology-affinity-filter": _TOPOLOGY,
        "topology-extractor": _TOPOLOGY,
        "multicluster-queue-scorer": _MULTICLUSTER,
        "multicluster-kv-cache-utilization-scorer": _MULTICLUSTER,
        "multicluster-prefix-cache-scorer": _MULTICLUSTER,
        "multicluster-session-affinity-filter": _MULTICLUSTER,
        "multicluster-approx-prefix-cache-producer": _MULTICLUSTER,
        "multicluster-metrics-data-source": _MULTICLUSTER,
        "multicluster-metrics-extractor": _MULTICLUSTER,
        "multicluster-file-discovery": _MULTICLUSTER,
        "disaggregatedset-rollout-screener": _DISAGGREGATION,
        "burst-prefix-cache-producer": _BURSTS,
        "token-producer": "prompts are counted in bytes; no tokenizer is asked",
        "tokenizer": "prompts are counted in bytes; no tokenizer is asked",
        "agent-identity": _IDENTITY,
        "request-attribute-reporter": "expressions over usage are not built",
        "dcgm-data-source": "GPU metrics are not scraped",
        "dcgm-extractor": "GPU metrics are not scraped",
        "k8s-notification-source": "objects of a cluster are not handed to plugins",
        "endpoint-notification-source": _KV_EVENTS,
        "vertexai-parser": "Vertex AI's gRPC requests are not parsed",
    }
)

BLOCKS: Mapping[str, str] = MappingProxyType(
    {
        "peerDiscovery": "replicas do not exchange their load",
        "crossReplicaSyncerPluginRef": "replicas do not exchange their load",
        "crossReplicaSyncInterval": "replicas do not exchange their load",
    }
)
"""Fields outside of `plugins`, by their last word."""


def refusal(what: str, reason: str) -> str:
    """The words of every refusal from this table."""
    return f"{what} is not supported yet: {reason}"
