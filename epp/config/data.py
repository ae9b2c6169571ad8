"""Data-layer plugins as configurations write them, and the data layer's settings that they become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from epp.config.decode import FieldError, Spelling
from epp.config.not_built import CUSTOM_METRICS, refusal
from epp.config.problems import nearest
from epp.config.quantities import PositiveDuration
from epp.datalayer.connection import HttpSource
from epp.datalayer.engines import DEFAULT_ENGINE, ENGINE_LABEL, ENGINES, Engine, MetricSpec, parse_spec
from epp.datalayer.scrape import EngineChoice
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
            raise FieldError("clientCertPath", "clientCertPath and clientKeyPath must be given together")
        if self.scheme == "http" and (self.ca_cert_path or self.client_cert_path):
            raise FieldError("scheme", "certificates need scheme: https")


def _spec(written: object) -> MetricSpec | None:
    if not isinstance(written, str):
        raise ValueError(f"{written!r} is not a metric: expected name or name{{label=value,...}}")
    return parse_spec(written) if written else None


_Spec = Annotated[MetricSpec | None, Spelling("metric", _spec)]


class EngineConfig(_Parameters, frozen=True):
    """Metric names of one engine; each spec is `name` or `name{label=value,...}`."""

    name: Annotated[str, Meta(min_length=1)]
    queued_requests_spec: _Spec = None
    running_requests_spec: _Spec = None
    kv_usage_spec: _Spec = msgspec.field(default=None, name="kvUsageSpec")
    lora_spec: _Spec = None
    cache_info_spec: _Spec = None
    cache_block_size_label_name: str = ""
    cache_num_blocks_label_name: str = ""
    cache_block_size_spec: _Spec = None
    cache_num_blocks_spec: _Spec = None
    custom_metrics: list[Any] = []

    def __post_init__(self) -> None:
        if self.custom_metrics:
            raise FieldError("customMetrics", refusal("customMetrics", CUSTOM_METRICS))

    def engine(self) -> Engine:
        return Engine(
            name=self.name,
            waiting=_one(self.queued_requests_spec),
            running=_one(self.running_requests_spec),
            kv_used=_one(self.kv_usage_spec),
            lora=self.lora_spec,
            cache_info=self.cache_info_spec,
            block_size_label=self.cache_block_size_label_name or ENGINES[DEFAULT_ENGINE].block_size_label,
            num_blocks_label=self.cache_num_blocks_label_name or ENGINES[DEFAULT_ENGINE].num_blocks_label,
            block_size=self.cache_block_size_spec,
            num_blocks=self.cache_num_blocks_spec,
            first_tokens=ENGINES[self.name].first_tokens if self.name in ENGINES else "",
        )


def _one(spec: MetricSpec | None) -> tuple[MetricSpec, ...]:
    return () if spec is None else (spec,)


class CoreExtractor(_Parameters, frozen=True):
    """Which metric names mean what, per engine."""

    engine_label_key: Annotated[str, Meta(description="endpoint label that names its engine")] = ENGINE_LABEL
    default_engine: Annotated[str, Meta(description="engine of endpoints without that label")] = (
        DEFAULT_ENGINE
    )
    engine_configs: Annotated[
        list[EngineConfig], Meta(description="further engines, or other metric names for known ones")
    ] = []
    custom_metrics: Annotated[list[Any], Meta(description="not supported yet")] = []

    def __post_init__(self) -> None:
        if self.custom_metrics:
            raise FieldError("customMetrics", refusal("customMetrics", CUSTOM_METRICS))
        names = [*ENGINES, *(config.name for config in self.engine_configs)]
        if self.default_engine not in names:
            hint = nearest(self.default_engine, names) or f"; known: {', '.join(names)}"
            raise FieldError("defaultEngine", f"unknown engine '{self.default_engine}'{hint}")


class ModelsSource(_Parameters, frozen=True):
    """How endpoints are asked which models they serve."""

    scheme: Annotated[Literal["http", "https"], Meta(description="of the models URL")] = "http"
    path: Annotated[str, Meta(pattern="^/", description="of the models URL")] = "/v1/models"


class FileDiscovery(_Parameters, frozen=True):
    """The file that lists the endpoints."""

    path: Annotated[str, Meta(min_length=1, description="YAML or JSON file with a list `endpoints`")]
    watch_file: Annotated[bool, Meta(description="take changes of the file at once")] = False


@dataclass(frozen=True, slots=True)
class Scrape:
    """How load is read from endpoints."""

    source: HttpSource
    interval_s: float | None
    """Seconds between two scrapes of an endpoint; None: as the flag says."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """What the data layer is asked to do; None: not at all."""

    scrape: Scrape | None = None
    engines: EngineChoice | None = None
    models: HttpSource | None = None
    """Where endpoints are asked which models they serve."""
    discovery: FileDiscovery | None = None


def _scrape(parameters: MetricsSource, context: BuildContext) -> Scrape:
    source = HttpSource(
        scheme=parameters.scheme,
        path=parameters.path,
        port=parameters.port,
        insecure_skip_verify=parameters.insecure_skip_verify,
        ca_cert_path=parameters.ca_cert_path,
        client_cert_path=parameters.client_cert_path,
        client_key_path=parameters.client_key_path,
    )
    try:
        source.tls()
    except OSError as error:
        raise ValueError(f"a TLS file cannot be used: {error}") from error
    return Scrape(source, parameters.interval)


def _engines(parameters: CoreExtractor, context: BuildContext) -> EngineChoice:
    own = {config.name: config.engine() for config in parameters.engine_configs}
    return EngineChoice(
        engines={**ENGINES, **own}, label=parameters.engine_label_key, default=parameters.default_engine
    )


def _models(parameters: ModelsSource, context: BuildContext) -> HttpSource:
    return HttpSource(scheme=parameters.scheme, path=parameters.path)


def _as_it_is(parameters: Any, context: BuildContext) -> Any:
    return parameters


PLUGINS: tuple[PluginType[Any], ...] = (
    PluginType(METRICS_SOURCE, MetricsSource, _scrape, "scrapes the engines' Prometheus metrics"),
    PluginType(CORE_EXTRACTOR, CoreExtractor, _engines, "reads load and cache sizes out of metrics"),
    PluginType(MODELS_SOURCE, ModelsSource, _models, "asks the engines which models they serve"),
    PluginType(MODELS_EXTRACTOR, NoParameters, _as_it_is, "reads model names out of those answers"),
    PluginType(FILE_DISCOVERY, FileDiscovery, _as_it_is, "takes the endpoints from a file"),
)
