"""Data-layer plugins as configurations write them. They build settings; the data layer works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from epp.config.not_built import CUSTOM_METRICS, refusal
from epp.config.quantities import PositiveDuration
from epp.scheduling.contract import BuildContext, NoParameters, PluginType

METRICS_SOURCE = "metrics-data-source"
CORE_EXTRACTOR = "core-metrics-extractor"
MODELS_SOURCE = "models-data-source"
MODELS_EXTRACTOR = "models-data-extractor"
FILE_DISCOVERY = "file-discovery"

EXTRACTS = {CORE_EXTRACTOR: METRICS_SOURCE, MODELS_EXTRACTOR: MODELS_SOURCE}
"""Which source an extractor can read."""


class _Parameters(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class MetricsSource(_Parameters, frozen=True):
    """How endpoints are scraped."""

    scheme: Annotated[Literal["http", "https"], Meta(description="of the metrics URL")] = "http"
    path: Annotated[str, Meta(pattern="^/", description="of the metrics URL")] = "/metrics"
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        Meta(description="port of the metrics URL; without it the endpoint's own"),
    ] = None
    insecure_skip_verify: Annotated[bool, Meta(description="accept any certificate")] = True
    ca_cert_path: Annotated[str, Meta(description="CA file that certificates are verified with")] = ""
    client_cert_path: Annotated[str, Meta(description="certificate file shown to endpoints")] = ""
    client_key_path: Annotated[str, Meta(description="key file of that certificate")] = ""
    interval: Annotated[
        PositiveDuration | None, Meta(description="time between scrapes; without it the flag's")
    ] = None

    def __post_init__(self) -> None:
        if bool(self.client_cert_path) != bool(self.client_key_path):
            raise ValueError("clientCertPath and clientKeyPath must be given together")
        if self.scheme == "http" and (self.ca_cert_path or self.client_cert_path):
            raise ValueError("certificates need scheme: https")


class EngineConfig(_Parameters, frozen=True):
    """Metric names of one engine; each spec is `name` or `name{label=value,...}`."""

    name: Annotated[str, Meta(min_length=1)]
    queued_requests_spec: str = ""
    running_requests_spec: str = ""
    kv_usage_spec: str = msgspec.field(default="", name="kvUsageSpec")
    lora_spec: str = ""
    cache_info_spec: str = ""
    cache_block_size_label_name: str = ""
    cache_num_blocks_label_name: str = ""
    cache_block_size_spec: str = ""
    cache_num_blocks_spec: str = ""
    custom_metrics: list[Any] = []

    def __post_init__(self) -> None:
        if self.custom_metrics:
            raise ValueError(refusal("customMetrics", CUSTOM_METRICS))


class CoreExtractor(_Parameters, frozen=True):
    """Which metric names mean what, per engine."""

    engine_label_key: Annotated[str, Meta(description="endpoint label that names its engine")] = (
        "llm-d.ai/engine-type"
    )
    default_engine: Annotated[str, Meta(description="engine of endpoints without that label")] = "vllm"
    engine_configs: Annotated[
        list[EngineConfig], Meta(description="further engines, or other metric names for known ones")
    ] = []
    custom_metrics: list[Any] = []

    def __post_init__(self) -> None:
        if self.custom_metrics:
            raise ValueError(refusal("customMetrics", CUSTOM_METRICS))


class ModelsSource(_Parameters, frozen=True):
    """How endpoints are asked which models they serve."""

    scheme: Annotated[Literal["http", "https"], Meta(description="of the models URL")] = "http"
    path: Annotated[str, Meta(pattern="^/", description="of the models URL")] = "/v1/models"


class FileDiscovery(_Parameters, frozen=True):
    """The file that lists the endpoints."""

    path: Annotated[str, Meta(min_length=1, description="YAML or JSON file with a list `endpoints`")]
    watch_file: Annotated[bool, Meta(description="take changes of the file at once")] = False


@dataclass(frozen=True, slots=True)
class DataSettings:
    """What the data layer is asked to do; None: not at all."""

    metrics: MetricsSource | None = None
    extractor: CoreExtractor | None = None
    models: ModelsSource | None = None
    discovery: FileDiscovery | None = None


def _settings(parameters: Any, context: BuildContext) -> Any:
    return parameters


PLUGINS: tuple[PluginType[Any], ...] = (
    PluginType(METRICS_SOURCE, MetricsSource, _settings, "Scrapes the engines' Prometheus metrics."),
    PluginType(CORE_EXTRACTOR, CoreExtractor, _settings, "Reads load and cache sizes out of metrics."),
    PluginType(MODELS_SOURCE, ModelsSource, _settings, "Asks the engines which models they serve."),
    PluginType(MODELS_EXTRACTOR, NoParameters, _settings, "Reads model names out of those answers."),
    PluginType(FILE_DISCOVERY, FileDiscovery, _settings, "Takes the endpoints from a file."),
)
