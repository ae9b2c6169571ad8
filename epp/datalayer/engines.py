"""Which metrics each kind of engine has, and how a body of them becomes a Load.

Names as the reference picker knows them, older vLLM names besides. Several samples of one name are ranks or
engines behind one port: requests and blocks are summed, shares are averaged. Of samples with the same labels
the one with the newest timestamp counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from epp.datalayer.exposition import Sample, labels_of, samples
from epp.datalayer.load import Load
from epp.domain.endpoint import Endpoint

ENGINE_LABEL = "llm-d.ai/engine-type"
LEGACY_ENGINE_LABEL = "inference.networking.k8s.io/engine-type"
DEFAULT_ENGINE = "vllm"

MAX_REQUESTS = 1e6
"""More requests than this in one engine is not believed."""
MAX_BLOCKS = 1e9
MAX_COUNT = 1e15
LORA_REST = 9
"""An engine without adapters has no such metric; to find that out is half the cost of reading its body."""
FULL_SLACK = 1.05
"""A share may exceed 1 by rounding or by blocks counted twice; what is beyond this is no share."""

_SPEC = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\}\s*)?")
_CONDITION = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*(?:"([^"]*)"|([^",{}\s]*))\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric name and the labels that its samples must have."""

    name: bytes
    labels: tuple[tuple[str, str], ...] = ()

    def fits(self, sample: Sample) -> bool:
        if not self.labels:
            return True
        labels = labels_of(sample.labels)
        return all(labels.get(name) == value for name, value in self.labels)


def parse_spec(text: str) -> MetricSpec:
    """`name{label=value,...}`, quotes optional. Raises ValueError with what is wrong."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a metric: expected name or name{{label=value,...}}")
    name, inside = match[1], match[2] or ""
    labels: list[tuple[str, str]] = []
    at = 0
    while at < len(inside):
        condition = _CONDITION.match(inside, at)
        if condition is None:
            if not inside[at:].strip():
                break
            raise ValueError(f"{text!r}: expected label=value at {inside[at:]!r}")
        labels.append((condition[1], condition[2] if condition[2] is not None else condition[3]))
        at = condition.end()
    return MetricSpec(name.encode(), tuple(labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Metrics of one kind of engine. Of several specs for one signal the first that is present counts."""

    name: str
    waiting: tuple[MetricSpec, ...] = ()
    running: tuple[MetricSpec, ...] = ()
    kv_used: tuple[MetricSpec, ...] = ()
    lora: MetricSpec | None = None
    cache_info: MetricSpec | None = None
    """An info metric whose labels carry block size and number of blocks."""
    block_size_label: str = "block_size"
    num_blocks_label: str = "num_gpu_blocks"
    block_size: MetricSpec | None = None
    num_blocks: MetricSpec | None = None
    first_tokens: str = ""
    """A histogram of seconds to the first token, without `_count` and `_sum`; empty for none."""
    max_requests: float = MAX_REQUESTS


def _specs(*texts: str) -> tuple[MetricSpec, ...]:
    return tuple(parse_spec(text) for text in texts)


_TRT = "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=%s}"

ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        engine.name: engine
        for engine in (
            Engine(
                name="vllm",
                waiting=_specs("vllm:num_requests_waiting"),
                running=_specs("vllm:num_requests_running"),
                # The second name is vLLM's before its V1 engine.
                kv_used=_specs("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
                lora=parse_spec("vllm:lora_requests_info"),
                cache_info=parse_spec("vllm:cache_config_info"),
                first_tokens="vllm:time_to_first_token_seconds",
            ),
            Engine(
                name="sglang",
                waiting=_specs("sglang:num_queue_reqs"),
                running=_specs("sglang:num_running_reqs"),
                kv_used=_specs("sglang:token_usage"),
                cache_info=parse_spec("sglang:cache_config_info"),
                block_size_label="page_size",
                num_blocks_label="num_pages",
                first_tokens="sglang:time_to_first_token_seconds",
            ),
            Engine(
                name="trtllm-serve",
                waiting=_specs("trtllm_num_requests_waiting"),
                running=_specs("trtllm_num_requests_running"),
                kv_used=_specs("trtllm_kv_cache_utilization"),
                block_size=parse_spec("trtllm_kv_cache_tokens_per_block"),
                num_blocks=parse_spec("trtllm_kv_cache_max_blocks"),
                first_tokens="trtllm_time_to_first_token_seconds",
            ),
            Engine(
                name="triton-tensorrt-llm",
                waiting=_specs("nv_trt_llm_request_metrics{request_type=waiting}"),
                running=_specs("nv_trt_llm_request_metrics{request_type=scheduled}"),
                kv_used=_specs(_TRT % "fraction"),
                block_size=parse_spec(_TRT % "tokens_per"),
                num_blocks=parse_spec(_TRT % "max"),
            ),
            Engine(
                name="triton",
                waiting=_specs("nv_inference_pending_request_count"),
                # The reference's choice, though it counts executions since the start and so grows for ever.
                running=_specs("nv_inference_exec_count"),
                max_requests=1e15,
            ),
        )
    }
)


def engine_of(
    labels: Mapping[str, str],
    engines: Mapping[str, Engine] = ENGINES,
    *,
    label: str = ENGINE_LABEL,
    default: str = DEFAULT_ENGINE,
) -> Engine:
    """The engine that an endpoint's labels name, else the default. Raises KeyError if there is no default."""
    named = labels.get(label)
    if named is None and label == ENGINE_LABEL:
        named = labels.get(LEGACY_ENGINE_LABEL)
    return engines.get(named or default) or engines[default]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """Which engine an endpoint is: by its label, else the default."""

    engines: Mapping[str, Engine] = field(default_factory=lambda: ENGINES)
    label: str = ENGINE_LABEL
    default: str = DEFAULT_ENGINE

    def __post_init__(self) -> None:
        if self.default not in self.engines:
            raise ValueError(f"default engine {self.default!r} is none of {', '.join(sorted(self.engines))}")

    def of(self, endpoint: Endpoint) -> Engine:
        return engine_of(endpoint.labels, self.engines, label=self.label, default=self.default)


class Reader:
    """Reads the bodies of one endpoint; remembers where each metric stood."""

    __slots__ = ("_engine", "_first_tokens", "_hints", "_lora_rest")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        name = engine.first_tokens.encode()
        self._first_tokens = (MetricSpec(name + b"_count"), MetricSpec(name + b"_sum")) if name else None
        self._hints: dict[bytes, int] = {}
        self._lora_rest = 0
        """Bodies in which adapters are not looked for, after one without them."""

    @property
    def engine(self) -> Engine:
        return self._engine

    def read(self, body: bytes) -> Load:
        """Never raises: what is missing or cannot be true is named in the answer."""
        engine, load = self._engine, Load()
        missing: list[str] = []
        lies: list[str] = []
        for signal, specs, limit in (
            ("waiting", engine.waiting, engine.max_requests),
            ("running", engine.running, engine.max_requests),
            ("kv_used", engine.kv_used, FULL_SLACK),
        ):
            if not specs:
                continue
            values = self._first_of(body, specs)
            if not values:
                missing.append(signal)
                continue
            # A sum over values none of which is negative, NaN or giant: one bad rank spoils the whole.
            if not all(0.0 <= value <= limit for value in values):
                lies.append(signal)
            elif signal == "waiting":
                load.waiting = sum(values)
            elif signal == "running":
                load.running = sum(values)
            else:
                load.kv_used = min(1.0, sum(values) / len(values))
        self._blocks(body, load, missing, lies)
        if engine.lora is not None:
            self._lora(body, engine.lora, load)
        load.missing, load.lies = tuple(missing), tuple(lies)
        return load

    def first_tokens(self, body: bytes) -> tuple[float, float] | None:
        """How many first tokens the engine counts since its start, and their seconds together."""
        if self._first_tokens is None:
            return None
        count, total_s = (self._first_of(body, (spec,)) for spec in self._first_tokens)
        if not count or not all(0.0 <= value < MAX_COUNT for value in (*count, *total_s)):
            return None
        return sum(count), sum(total_s)

    def _fitting(self, body: bytes, spec: MetricSpec) -> list[Sample]:
        found, self._hints[spec.name] = samples(body, spec.name, self._hints.get(spec.name, 0))
        if spec.labels:
            found = [sample for sample in found if spec.fits(sample)]
        return found

    def _first_of(self, body: bytes, specs: Iterable[MetricSpec]) -> list[float]:
        for spec in specs:
            found = self._fitting(body, spec)
            if len(found) == 1:
                return [found[0].value]
            if found:
                return [sample.value for sample in _newest(found)]
        return []

    def _blocks(self, body: bytes, load: Load, missing: list[str], lies: list[str]) -> None:
        engine = self._engine
        if engine.cache_info is not None:
            found = _newest(self._fitting(body, engine.cache_info))
            labels = [labels_of(sample.labels) for sample in found]
            sizes = [each.get(engine.block_size_label, "") for each in labels]
            counts = [each.get(engine.num_blocks_label, "") for each in labels]
            # vLLM writes the word None until it knows: that is neither missing nor a lie.
            load.block_size = next((int(text) for text in sizes if _is_count(text)), None)
            if counts and all(_is_count(text) for text in counts):
                load.num_blocks = sum(int(text) for text in counts)
            if not found:
                missing.append("cache_info")
        for signal, spec in (("block_size", engine.block_size), ("num_blocks", engine.num_blocks)):
            if spec is None:
                continue
            values = self._first_of(body, (spec,))
            if not values:
                missing.append(signal)
            elif not all(0.0 <= value <= MAX_BLOCKS for value in values):
                lies.append(signal)
            elif signal == "block_size":
                load.block_size = int(values[0])
            else:
                load.num_blocks = int(sum(values))

    def _lora(self, body: bytes, spec: MetricSpec, load: Load) -> None:
        # The value is the unix time of the sample; vLLM leaves the samples of former label sets standing.
        if self._lora_rest > 0:
            self._lora_rest -= 1
            return
        found = [sample for sample in self._fitting(body, spec) if math.isfinite(sample.value)]
        if not found:
            self._lora_rest = LORA_REST
            return
        labels = labels_of(max(found, key=lambda sample: sample.value).labels)
        load.lora_running = _names(labels.get("running_lora_adapters", ""))
        load.lora_waiting = _names(labels.get("waiting_lora_adapters", ""))
        if _is_count(labels.get("max_lora", "")):
            load.lora_max = int(labels["max_lora"])


def _newest(found: list[Sample]) -> Iterable[Sample]:
    """Of samples with the same labels the newest; the first without timestamps."""
    if len(found) < 2:
        return found
    kept: dict[bytes, Sample] = {}
    for sample in found:
        held = kept.setdefault(sample.labels, sample)
        if sample.at is not None and (held.at is None or sample.at > held.at):
            kept[sample.labels] = sample
    return kept.values()


def _names(text: str) -> frozenset[str]:
    return frozenset(name for part in text.split(",") if (name := part.strip()))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
