"""What an engine shows at /metrics: vLLM's names, labels, types and buckets.

The names are those of vLLM's V1 engine. Text is kept between changes, a histogram's by itself, so that
frequent scrapes of many engines cost little.
"""

from __future__ import annotations

from typing import Final

from epp.sim.engine import Engine
from epp.sim.histogram import Histogram, one_two_five
from epp.sim.sequence import Finish, Sequence
from epp.sim.step import Step

CONTENT_TYPE: Final = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"

_TTFT_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_S: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST_S: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
)  # fmt: skip
_STEP_TOKENS: Final = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Exposition:
    """Counts what an engine does and renders it. Times are the engine's own, whatever the speed."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._labels = labels = f'engine="0",model_name="{_escaped(model)}"'
        profile = engine.profile

        def histogram(name: str, about: str, bounds: tuple[float, ...] | list[float]) -> Histogram:
            return Histogram(f"vllm:{name}", about, bounds, labels)

        counts = one_two_five(profile.max_model_len)
        self.ttft = histogram("time_to_first_token_seconds", "Time to first token.", _TTFT_S)
        self.inter_token = histogram("inter_token_latency_seconds", "Time between two tokens.", _TOKEN_S)
        self.output_token = histogram(
            "time_per_output_token_seconds", "Time between two tokens (former name).", _TOKEN_S
        )
        self.per_token = histogram(
            "request_time_per_output_token_seconds", "Mean time a token of one request.", _TOKEN_S
        )
        self.e2e = histogram("e2e_request_latency_seconds", "From arrival to the last token.", _REQUEST_S)
        self.queue = histogram("request_queue_time_seconds", "In the waiting queue.", _REQUEST_S)
        self.inference = histogram("request_inference_time_seconds", "From batch to end.", _REQUEST_S)
        self.prefill = histogram("request_prefill_time_seconds", "From batch to first token.", _REQUEST_S)
        self.decode = histogram("request_decode_time_seconds", "From first to last token.", _REQUEST_S)
        self.prompt = histogram("request_prompt_tokens", "Prompt tokens of a request.", counts)
        self.generation = histogram("request_generation_tokens", "Generated tokens of a request.", counts)
        self.max_generation = histogram(
            "request_max_num_generation_tokens", "Most tokens that a request could generate.", counts
        )
        self.max_tokens = histogram("request_params_max_tokens", "max_tokens of a request.", counts)
        self.params_n = histogram("request_params_n", "n of a request.", (1, 2, 5, 10, 20))
        self.step_tokens = histogram("iteration_tokens_total", "Tokens of a step.", _STEP_TOKENS)
        self._histograms = (
            self.step_tokens, self.ttft, self.inter_token, self.output_token, self.per_token, self.e2e,
            self.queue, self.inference, self.prefill, self.decode, self.prompt, self.generation,
            self.max_generation, self.max_tokens, self.params_n,
        )  # fmt: skip
        self._ended = dict.fromkeys(Finish, 0)
        self._static = _info(
            "vllm:cache_config_info",
            "Configuration of the KV cache.",
            f'block_size="{profile.block_tokens}",cache_dtype="auto",enable_prefix_caching="True",engine="0",'
            f'gpu_memory_utilization="0.9",model_name="{_escaped(model)}",num_cpu_blocks="0",'
            f'num_gpu_blocks="{profile.kv_blocks}"',
            "1.0",
        )
        self._seen: tuple[object, ...] = ()
        self._text = b""

    def step(self, step: Step) -> None:
        """Counts one step of the engine."""
        if step.decodes:
            gap = step.at - step.began_at
            self.inter_token.observe(gap, step.decodes)
            self.output_token.observe(gap, step.decodes)
        if step.tokens or step.prefill_tokens:
            self.step_tokens.observe(step.prefill_tokens + step.decodes)
        for seq in step.first:
            self.ttft.observe(seq.first_token_at - seq.arrived_at)
        for seq in step.finished:
            self._finished(seq)

    def aborted(self) -> None:
        self._ended[Finish.ABORT] += 1

    def _finished(self, seq: Sequence) -> None:
        work = seq.work
        assert seq.ended is not None
        self._ended[seq.ended] += 1
        self.e2e.observe(seq.finished_at - seq.arrived_at)
        self.queue.observe(seq.scheduled_at - seq.arrived_at)
        self.inference.observe(seq.finished_at - seq.scheduled_at)
        self.prefill.observe(seq.first_token_at - seq.scheduled_at)
        decode_s = seq.finished_at - seq.first_token_at
        self.decode.observe(decode_s)
        if work.output_tokens > 1:
            self.per_token.observe(decode_s / (work.output_tokens - 1))
        self.prompt.observe(work.prompt_tokens)
        self.generation.observe(work.output_tokens)
        self.params_n.observe(1)
        if work.max_tokens is not None:
            self.max_tokens.observe(work.max_tokens)
        self.max_generation.observe(work.max_tokens or work.output_tokens)

    def render(self, wall_time: float, lies: dict[str, float]) -> bytes:
        """The text. `wall_time` (Unix seconds) stamps the LoRA state; `lies` replace gauges."""
        engine = self._engine
        c = engine.counters
        seen = (
            engine.running, engine.waiting, engine.kv.used, c.steps, c.preemptions,
            tuple(self._ended.values()), tuple(engine.adapters.running), tuple(engine.adapters.waiting),
            lies,
        )  # fmt: skip
        if seen != self._seen:
            self._seen = (*seen[:-1], dict(lies))
            self._text = self._render(wall_time, lies)
        return self._text

    def _render(self, wall_time: float, lies: dict[str, float]) -> bytes:
        engine, labels = self._engine, self._labels
        c = engine.counters
        kv_usage = _number(lies.get("kv", engine.kv.usage))
        parts = [
            _gauge(
                "num_requests_running", "Requests in the batch.", labels, lies.get("running", engine.running)
            ),
            _gauge(
                "num_requests_waiting", "Requests that wait.", labels, lies.get("waiting", engine.waiting)
            ),
            f"# HELP vllm:kv_cache_usage_perc Share of KV blocks in use, 1 for all.\n"
            f"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{{{labels}}} {kv_usage}\n",
            _counter(
                "prefix_cache_queries", "Tokens looked up in the prefix cache.", labels, c.prefix_queries
            ),
            _counter("prefix_cache_hits", "Tokens found in the prefix cache.", labels, c.prefix_hits),
            _counter("num_preemptions", "Requests put back into the queue.", labels, c.preemptions),
            _counter("prompt_tokens", "Prompt tokens processed.", labels, c.prompt_tokens),
            _counter("generation_tokens", "Tokens generated.", labels, c.generation_tokens),
            "# HELP vllm:request_success_total Requests that ended.\n"
            "# TYPE vllm:request_success_total counter\n",
        ]
        parts += [
            f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}\n'
            for reason, count in self._ended.items()
        ]
        parts.append(self._static)
        parts.append(
            _info(
                "vllm:lora_requests_info",
                "Adapters in use and waited for.",
                f'max_lora="{engine.adapters.slots}",running_lora_adapters="{_escaped(",".join(engine.adapters.running))}",'
                f'waiting_lora_adapters="{_escaped(",".join(engine.adapters.waiting))}"',
                repr(wall_time),
            )
        )
        parts += [histogram.render() for histogram in self._histograms]
        return "".join(parts).encode()


def _gauge(name: str, about: str, labels: str, value: float) -> str:
    return f"# HELP vllm:{name} {about}\n# TYPE vllm:{name} gauge\nvllm:{name}{{{labels}}} {_number(value)}\n"


def _counter(name: str, about: str, labels: str, value: int) -> str:
    return (
        f"# HELP vllm:{name}_total {about}\n# TYPE vllm:{name}_total counter\n"
        f"vllm:{name}_total{{{labels}}} {float(value)}\n"
    )


def _info(name: str, about: str, labels: str, value: str) -> str:
    return f"# HELP {name} {about}\n# TYPE {name} gauge\n{name}{{{labels}}} {value}\n"


def _number(value: float) -> str:
    text = repr(float(value))
    return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text, text)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
