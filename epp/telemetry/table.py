"""Every metric there is, in one table: name, deprecated twins, kind, labels, buckets and help.

Names, labels and buckets of `llm_d_epp_*` and of the twins are the reference picker's; `epp_*` are our own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from epp.telemetry import buckets as b
from epp.telemetry.buckets import Bounds


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Twin:
    """The same quantity under its deprecated name. Labels that it lacks are summed over."""

    name: str
    labels: tuple[str, ...] = ()
    """Its labels, by the names that the successor gives them."""
    renamed: tuple[tuple[str, str], ...] = ()
    """(the successor's label, the twin's)."""
    buckets: Bounds = ()
    """Where they differ from the successor's."""


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: Bounds = ()
    twins: tuple[Twin, ...] = ()
    bounds: Bounds = field(init=False)
    """What is counted: the union of its own buckets and its twins', so that one count serves all."""

    def __post_init__(self) -> None:
        every = set(self.buckets).union(*(twin.buckets for twin in self.twins))
        object.__setattr__(self, "bounds", tuple(sorted(every)))


def _counter(name: str, help_: str, labels: tuple[str, ...] = (), *twins: Twin) -> Metric:
    return Metric(name, Kind.COUNTER, help_, labels, twins=twins)


def _gauge(name: str, help_: str, labels: tuple[str, ...] = (), *twins: Twin) -> Metric:
    return Metric(name, Kind.GAUGE, help_, labels, twins=twins)


def _histogram(name: str, bounds: Bounds, help_: str, labels: tuple[str, ...] = (), *twins: Twin) -> Metric:
    return Metric(name, Kind.HISTOGRAM, help_, labels, bounds, twins)


_MODELS = ("model_name", "target_model_name")
_REQUEST = (*_MODELS, "fairness_id", "priority")
_PLUGIN = ("plugin_name", "plugin_type")
_POOL = ("name",)
_TIMED = ("extension_point", "plugin_type", "plugin_name")
_INFLIGHT = ("endpoint_name", "namespace", "producer_name", "fairness_id", "priority")
_ATTEMPT = ("status", "target_model_name", "endpoint_name", "namespace", "port")
_OBJECTIVE = "inference_objective_"
_EXTENSION = "inference_extension_"
_POOL_TWIN = "inference_pool_"

# One request, from its headers to its end.
REQUESTS = _counter(
    "llm_d_epp_request_total", "Requests for which an endpoint was chosen.", _REQUEST,
    Twin(_OBJECTIVE + "request_total", (*_MODELS, "priority")),
)  # fmt: skip
ERRORS = _counter(
    "llm_d_epp_request_error_total", "Requests that failed or were refused, by canonical code.",
    (*_REQUEST, "error_code"), Twin(_OBJECTIVE + "request_error_total", (*_MODELS, "error_code")),
)  # fmt: skip
DURATION = _histogram(
    "llm_d_epp_request_duration_seconds", b.REQUEST_S,
    "Seconds from the request's headers to the end of its answer.",
    _REQUEST, Twin(_OBJECTIVE + "request_duration_seconds", _MODELS),
)  # fmt: skip
REQUEST_SIZE = _histogram(
    "llm_d_epp_request_size_bytes", b.REQUEST_BYTES, "Bytes of the request's body.",
    _REQUEST, Twin(_OBJECTIVE + "request_sizes", _MODELS),
)  # fmt: skip
ANSWER_SIZE = _histogram(
    "llm_d_epp_response_size_bytes", b.ANSWER_BYTES, "Bytes of the answer's body.",
    _REQUEST, Twin(_OBJECTIVE + "response_sizes", _MODELS),
)  # fmt: skip
INPUT_TOKENS = _histogram(
    "llm_d_epp_request_input_tokens", b.INPUT_TOKENS, "Prompt tokens as the engine counted them.",
    _REQUEST, Twin(_OBJECTIVE + "input_tokens", _MODELS),
)  # fmt: skip
OUTPUT_TOKENS = _histogram(
    "llm_d_epp_request_output_tokens", b.OUTPUT_TOKENS, "Generated tokens as the engine counted them.",
    _REQUEST, Twin(_OBJECTIVE + "output_tokens", _MODELS),
)  # fmt: skip
CACHED_TOKENS = _histogram(
    "llm_d_epp_request_cached_tokens", b.INPUT_TOKENS,
    "Prompt tokens that the engine says it had in its cache.",
    _REQUEST, Twin(_OBJECTIVE + "prompt_cached_tokens", _MODELS),
)  # fmt: skip
RUNNING = _gauge(
    "llm_d_epp_request_running", "Requests sent to an endpoint whose answer has not ended.",
    _REQUEST, Twin(_OBJECTIVE + "running_requests", ("model_name",)),
)  # fmt: skip
NTPOT = _histogram(
    "llm_d_epp_request_ntpot_seconds", b.NTPOT_S, "Seconds of the whole request for each generated token.",
    _REQUEST, Twin(_OBJECTIVE + "normalized_time_per_output_token_seconds", _MODELS),
)  # fmt: skip
TTFT = _histogram(
    "llm_d_epp_request_ttft_seconds", b.TTFT_S,
    "Seconds from the request's headers to the answer's first byte; without streaming, to its end.",
    (*_REQUEST, "streaming"), Twin(_OBJECTIVE + "request_ttft_seconds", _MODELS, buckets=b.REQUEST_S),
)  # fmt: skip
TPOT = _histogram(
    "llm_d_epp_request_streaming_tpot_seconds", b.TPOT_S,
    "Mean seconds between the tokens of a streamed answer, the first token left out.",
    _REQUEST, Twin(_OBJECTIVE + "request_tpot_seconds", _MODELS, buckets=b.LEGACY_TPOT_S),
)  # fmt: skip
ITL = _histogram(
    "llm_d_epp_request_streaming_itl_seconds", b.ITL_S,
    "Seconds between two successive chunks of a streamed answer.", _REQUEST,
)  # fmt: skip
REQUEST_PROCESSING = _histogram(
    "llm_d_epp_request_processing_duration_seconds", b.REQUEST_PROCESSING_S,
    "Seconds that a request spent in the picker before it went on, admission included.",
)  # fmt: skip
ANSWER_PROCESSING = _histogram(
    "llm_d_epp_response_processing_duration_seconds", b.ANSWER_PROCESSING_S,
    "Seconds that the picker spent on an answer, summed over its chunks.",
)  # fmt: skip

# The pool, computed from the current snapshot when it is asked for.
MEAN_KV = _gauge(
    "llm_d_epp_average_kv_cache_utilization", "Mean share of KV-cache blocks in use in the pool.",
    _POOL, Twin(_POOL_TWIN + "average_kv_cache_utilization", _POOL),
)  # fmt: skip
MEAN_QUEUE = _gauge(
    "llm_d_epp_average_queue_size", "Mean number of requests waiting in an engine of the pool.",
    _POOL, Twin(_POOL_TWIN + "average_queue_size", _POOL),
)  # fmt: skip
MEAN_RUNNING = _gauge(
    "llm_d_epp_average_running_requests", "Mean number of requests running in an engine of the pool.",
    _POOL, Twin(_POOL_TWIN + "average_running_requests", _POOL),
)  # fmt: skip
DEV_KV = _gauge(
    "llm_d_epp_std_dev_kv_cache_utilization", "Sample standard deviation of KV-cache use in the pool.", _POOL
)
DEV_QUEUE = _gauge(
    "llm_d_epp_std_dev_queue_size", "Sample standard deviation of waiting requests in the pool.", _POOL
)
DEV_RUNNING = _gauge(
    "llm_d_epp_std_dev_running_requests", "Sample standard deviation of running requests in the pool.", _POOL
)
READY = _gauge(
    "llm_d_epp_ready_endpoints", "Endpoints in the pool.", _POOL, Twin(_POOL_TWIN + "ready_pods", _POOL)
)
QUEUE = _gauge(
    "llm_d_epp_per_endpoint_queue_size", "Requests waiting in this engine.",
    (*_POOL, "model_server_endpoint"),
    Twin(
        _POOL_TWIN + "per_pod_queue_size", (*_POOL, "model_server_endpoint"),
        renamed=(("model_server_endpoint", "model_server_pod"),),
    ),
)  # fmt: skip
INFLIGHT_REQUESTS = _gauge(
    "llm_d_epp_inflight_requests", "Our unfinished requests at this endpoint.", _INFLIGHT
)
INFLIGHT_TOKENS = _gauge(
    "llm_d_epp_inflight_tokens", "Uncached prompt tokens and expected output tokens at this endpoint.",
    _INFLIGHT,
)  # fmt: skip

# Scheduling.
SCHEDULING = _histogram(
    "llm_d_epp_scheduler_e2e_duration_seconds", b.SCHEDULING_S, "Seconds that one scheduling decision took.",
    (), Twin(_EXTENSION + "scheduler_e2e_duration_seconds"),
)  # fmt: skip
ATTEMPTS = _counter(
    "llm_d_epp_scheduler_attempts_total", "Scheduling decisions, by outcome and chosen endpoint.", _ATTEMPT,
    Twin(_EXTENSION + "scheduler_attempts_total", _ATTEMPT, renamed=(("endpoint_name", "pod_name"),)),
)  # fmt: skip
PLUGIN = _histogram(
    "llm_d_epp_plugin_duration_seconds", b.SCHEDULING_S,
    "Seconds of one call of a plugin, in one of eight decisions.",
    _TIMED, Twin(_EXTENSION + "plugin_duration_seconds", _TIMED),
)  # fmt: skip
PREFIX_SIZE = _gauge(
    "llm_d_epp_prefix_indexer_size", "Prompt blocks that the prefix index holds.", _PLUGIN,
    Twin(_EXTENSION + "prefix_indexer_size"),
)  # fmt: skip
PREFIX_RATIO = _histogram(
    "llm_d_epp_prefix_indexer_hit_ratio", b.RATIO, "Share of the prompt that was believed to be cached.",
    _PLUGIN, Twin(_EXTENSION + "prefix_indexer_hit_ratio"),
)  # fmt: skip
PREFIX_BYTES = _histogram(
    "llm_d_epp_prefix_indexer_hit_bytes", b.HIT_BYTES, "Bytes of the prompt that were believed to be cached.",
    _PLUGIN, Twin(_EXTENSION + "prefix_indexer_hit_bytes"),
)  # fmt: skip
_REWRITE = ("model_rewrite_name", "model_name", "target_model")
REWRITES = _counter(
    "llm_d_epp_model_rewrite_decisions_total", "Requests whose model a rewrite rule decided.", _REWRITE,
    Twin(_EXTENSION + "model_rewrite_decisions_total", _REWRITE),
)  # fmt: skip

# Flow control.
_FLOWING = "flow_control_"
_IN_POOL = ("inference_pool",)
_BAND = ("priority", *_IN_POOL)
_QUEUED = ("fairness_id", *_BAND, *_MODELS)
_WAITED = ("fairness_id", "priority", "outcome", *_IN_POOL, *_MODELS)
_ENQUEUED = ("fairness_id", "priority", "outcome")
QUEUE_DURATION = _histogram(
    "llm_d_epp_flow_control_request_queue_duration_seconds", b.QUEUED_S,
    "Seconds between a request's arrival at the queues and what became of it there.",
    _WAITED, Twin(_EXTENSION + _FLOWING + "request_queue_duration_seconds", _WAITED),
)  # fmt: skip
DISPATCH_CYCLE = _histogram(
    "llm_d_epp_flow_control_dispatch_cycle_duration_seconds", b.SCHEDULING_S,
    "Seconds of one run over the queues, which sends as many requests as fit.",
    (), Twin(_EXTENSION + _FLOWING + "dispatch_cycle_duration_seconds"),
)  # fmt: skip
ENQUEUE_DURATION = _histogram(
    "llm_d_epp_flow_control_request_enqueue_duration_seconds", b.SCHEDULING_S,
    "Seconds that it took to put a request into its queue, or to find that it has no place there.",
    _ENQUEUED, Twin(_EXTENSION + _FLOWING + "request_enqueue_duration_seconds", _ENQUEUED),
)  # fmt: skip
QUEUE_SIZE = _gauge(
    "llm_d_epp_flow_control_queue_size", "Requests that wait in the queues.", _QUEUED,
    Twin(_EXTENSION + _FLOWING + "queue_size", _QUEUED),
)  # fmt: skip
QUEUE_BYTES = _gauge(
    "llm_d_epp_flow_control_queue_bytes", "Bytes of the bodies of requests that wait in the queues.", _QUEUED,
    Twin(_EXTENSION + _FLOWING + "queue_bytes", _QUEUED),
)  # fmt: skip
SATURATION = _gauge(
    "llm_d_epp_flow_control_pool_saturation",
    "How full the pool is, by stage: prefill, decode, and effective, the one that counts.",
    (*_IN_POOL, "stage"),
    Twin(_EXTENSION + _FLOWING + "pool_saturation", (*_IN_POOL, "stage")),
)  # fmt: skip
STALE = _gauge(
    "llm_d_epp_flow_control_stale_endpoints",
    "Endpoints that the saturation detector takes for full because their metrics are missing or too old.",
    ("detector",),
)
BAND_REQUESTS = _gauge(
    "llm_d_epp_flow_control_capacity_utilization_requests",
    "Share of the band's limit of waiting requests that is used; without one, of the limit of all bands.",
    _BAND,
)
BAND_BYTES = _gauge(
    "llm_d_epp_flow_control_capacity_utilization_bytes",
    "Share of the band's limit of waiting bytes that is used; without one, of the limit of all bands.",
    _BAND,
)
ALL_REQUESTS = _gauge(
    "llm_d_epp_flow_control_global_capacity_utilization_requests",
    "Share of the limit of waiting requests of all bands together that is used; 0 without one.", _IN_POOL,
)  # fmt: skip
ALL_BYTES = _gauge(
    "llm_d_epp_flow_control_global_capacity_utilization_bytes",
    "Share of the limit of waiting bytes of all bands together that is used; 0 without one.", _IN_POOL,
)  # fmt: skip
OUTCOMES = _counter(
    "llm_d_epp_flow_control_requests_total", "Requests that came to the queues, by what became of them.",
    ("outcome", *_BAND),
)  # fmt: skip
REVOKED = _counter(
    "llm_d_epp_flow_control_revocations_issued_total",
    "Running requests that were aborted for more important ones, by the priority of those.", _BAND,
)  # fmt: skip
REVOCATIONS = _counter(
    "llm_d_epp_flow_control_revocations_total",
    "Aborted running requests by how that ended: confirmed, or timed_out when the request went on too long.",
    ("outcome", *_IN_POOL),
)
RECLAIM_TARGET = _gauge(
    "llm_d_epp_flow_control_reclaim_target",
    "Saturation that was to be given back when running requests were last aborted.", _IN_POOL,
)  # fmt: skip
RECLAIM_PENDING = _gauge(
    "llm_d_epp_flow_control_pending_reclaim",
    "Saturation that aborted requests will give back and that the pool's load does not show yet.", _IN_POOL,
)  # fmt: skip
REVOCATION_DURATION = _histogram(
    "llm_d_epp_flow_control_revocation_confirmation_seconds", b.REVOKED_S,
    "Seconds from the abort of a running request until it had ended.", _IN_POOL,
)  # fmt: skip

# Data layer, door, build.
_SCHEDULER = "llm_d_inference_scheduler_"
POLL_ERRORS = _counter(
    "llm_d_epp_datalayer_poll_errors_total", "Scrapes of an endpoint that failed.", ("source_type",),
    Twin(_SCHEDULER + "datalayer_poll_errors_total", ("source_type",)),
)  # fmt: skip
EXTRACT_ERRORS = _counter(
    "llm_d_epp_datalayer_extract_errors_total", "Scrapes whose answer lacked what was looked for.",
    ("source_type", "extractor_type"),
    Twin(_SCHEDULER + "datalayer_extract_errors_total", ("source_type", "extractor_type")),
)  # fmt: skip
TRANSPORT = _gauge("epp_transport_info", "The transport that serves ext_proc.", ("transport",))
HANDOFF = _histogram(
    "epp_transport_handoff_seconds",
    b.HANDOFF_S,
    "Seconds from the queueing of a request by the native transport until its verdict was there.",
)
CONNECTIONS = _gauge("epp_transport_connections", "Connections of gateways to the native transport.")
HANDSHAKES = _counter(
    "epp_transport_handshake_failures_total",
    "Connections to the native transport that ended in their TLS or HTTP/2 handshake.",
)
STREAMS = _gauge("llm_d_epp_extproc_streams_inflight", "Open ext_proc streams.")
STREAM_DURATION = _histogram(
    "llm_d_epp_extproc_stream_duration_seconds", b.STREAM_S, "Seconds that an ext_proc stream was open."
)
STREAMS_ENDED = _counter(
    "llm_d_epp_extproc_streams_total", "Ended ext_proc streams, by gRPC status.", ("code",)
)
INFO = _gauge(
    "llm_d_epp_info", "Always 1; its labels say which build this is.", ("commit", "build_ref"),
    Twin(_EXTENSION + "info", ("commit", "build_ref")),
)  # fmt: skip

# Our own.
VIOLATIONS = _counter(
    "epp_protocol_violations_total", "Streams ended because the proxy broke the ext_proc protocol.", ("kind",)
)
INTERNAL_ERRORS = _counter(
    "epp_internal_errors_total", "Faults of the picker itself, each with a traceback in the log.", ("where",)
)
REFUSALS = _counter(
    "epp_refusals_total", "Requests that the picker answered itself, by reason.", ("reason", "status")
)
ENDINGS = _counter("epp_requests_ended_total", "Requests by the way they ended.", ("ending",))
PLUGIN_FAULTS = _counter(
    "epp_plugin_faults_total", "Answers of a plugin that were left out or clamped.", ("plugin_name",)
)
EJECTIONS = _counter(
    "epp_outlier_ejections_total", "Times that an endpoint was avoided because requests to it failed."
)
ANSWERS = _counter(
    "epp_answers_total",
    "Answers by whether they were looked at, and by why they should be.",
    ("observed", "wanted"),
)
ESTIMATED_TOKENS = _counter(
    "epp_estimated_tokens_total",
    "Prompt and generated tokens of answers that were not looked at, as estimated from the others.",
    ("kind",),
)
OBSERVATION = _gauge(
    "epp_observation_mode",
    "Always 1; how answers are looked at: as asked for, what the gateway permits, what comes of both.",
    ("asked", "gateway", "effect"),
)
ENDPOINTS = _gauge(
    "epp_endpoints",
    "Endpoints by what is known of them: fresh, stale, unscraped, avoided.",
    ("name", "state"),
)
SCRAPE_INTERVAL = _gauge(
    "epp_scrape_interval_seconds", "Seconds between two scrapes of one endpoint, as they are now."
)
METRICS_AGE = _gauge(
    "epp_metrics_age_seconds", "Age of the oldest endpoint metrics that still count as fresh.", _POOL
)
CONFIG_NOTICES = _gauge(
    "epp_config_notices", "Notices that the running configuration gave when it was loaded."
)
UNFOLLOWED = _gauge(
    "epp_kube_unfollowed_lists", "Lists of the cluster that are not followed right now; routing goes on."
)
LEADING = _gauge("epp_leading", "1 where this replica holds the Lease; only with leader election.")
CONFIG_GENERATION = _gauge(
    "epp_config_generation", "How many configurations this process has put into force for the pool.", _POOL
)
CONFIG_HASH = _gauge(
    "epp_config_hash", "Hash of the configuration in force: replicas that show the same have the same.", _POOL
)
CONFIG_SUCCESSFUL = _gauge(
    "epp_config_last_reload_successful",
    "1 where the configuration in force is the one that was last written, 0 where that was refused.",
    _POOL,
)
CONFIG_SINCE = _gauge(
    "epp_config_last_reload_success_timestamp_seconds",
    "When the configuration in force was loaded, in seconds since 1970.",
    _POOL,
)
CONFIG_RELOADS = _counter(
    "epp_config_reloads_total",
    "Configurations that were loaded after the start, by result: success or failure.",
    (*_POOL, "result"),
)

STREAM_METRICS = frozenset({STREAMS.name, STREAM_DURATION.name, STREAMS_ENDED.name})
"""Exposed only with --enable-grpc-stream-metrics."""

TABLE: MappingProxyType[str, Metric] = MappingProxyType(
    {metric.name: metric for metric in tuple(globals().values()) if isinstance(metric, Metric)}
)
