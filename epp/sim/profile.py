"""What a model on its hardware costs: the constants of the step-time model and of the KV cache.

A step of the engine takes

    step_s + prefill_token_s * prompt tokens in it + decode_s * decoding sequences
           + context_token_s * tokens of KV that those sequences attend to

and a request waits `intake_s` before the engine can see it (HTTP, tokenising). So an idle engine
answers the first token after intake_s + step_s + n * prefill_token_s, and a token every step_s or so.

Sources. [S] is the published latency profiles of llm-d-inference-sim (manifests/latency-profiles and
docs/latency-profiles.md): time to first token as "overhead + per token", inter-token latency, and the
factor by which it has grown when the batch is full. [K] is the capacity benchmarks of llm-d-kv-cache
(benchmarking/37-capacity, 73-capacity): KV tokens of one pod. The overhead of [S] is split: one step is
compute, the rest is intake. decode_s spreads [S]'s growth over a full batch:
step_s * (factor - 1) / (max_num_seqs - 1).
context_token_s is memory traffic: KV bytes of a token over HBM bytes a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Profile:
    """Constants of one model on one kind of hardware. Times in seconds, sizes in tokens."""

    about: str
    intake_s: float
    step_s: float
    prefill_token_s: float
    decode_s: float
    context_token_s: float
    jitter: float
    """Standard deviation of a step's time, relative."""
    kv_blocks: int
    block_tokens: int = 16
    """vLLM's default on CUDA."""
    max_num_seqs: int = 256
    """vLLM's default."""
    max_num_batched_tokens: int = 2048
    """vLLM's default for chunked prefill; bounds how long a prefill holds up the decodes beside it."""
    max_model_len: int = 131_072


LLAMA_8B_H100: Final = Profile(
    about="Llama-3.1-8B, one H100 80 GB",
    intake_s=0.018,  # [S] overhead 30 ms, less one step
    step_s=0.012,  # [S] 12 ms between tokens; the table says 10-15
    prefill_token_s=250e-6,  # [S]
    decode_s=0.012 * (2.0 - 1) / 255,  # [S] factor 2.0
    context_token_s=131_072 / 3.35e12,  # 128 KiB of KV a token, 3.35 TB/s
    jitter=0.16,  # [S] 12 +- 2 ms
    kv_blocks=25_700,  # (80 GB x 0.9 - 16.1 GB weights - 2 GB activations) / 128 KiB = 411,000 tokens
)

LLAMA_70B_8H100: Final = Profile(
    about="Llama-3.1-70B, eight H100 80 GB",
    intake_s=0.055,  # [S] overhead 80 ms, less one step
    step_s=0.025,  # [S] 25 ms
    prefill_token_s=500e-6,  # [S]
    decode_s=0.025 * (3.0 - 1) / 255,  # [S] factor 3.0
    context_token_s=327_680 / (8 * 3.35e12),  # 320 KiB a token over eight memories
    jitter=0.16,  # [S] 25 +- 4 ms
    kv_blocks=28_836,  # [K] 461,376 tokens a pod (with four H100)
)

QWEN3_32B_2H100: Final = Profile(
    about="Qwen3-32B, two H100 80 GB",
    intake_s=0.030,
    step_s=0.025,  # [S] table, 34B TP2: 20-30 ms
    prefill_token_s=640e-6,  # [S] table, 34B TP2: 160-280 ms for 256 tokens
    decode_s=0.025 * (2.0 - 1) / 255,
    context_token_s=262_144 / (2 * 3.35e12),  # 256 KiB a token: 64 layers, 8 KV heads of 128, two bytes
    jitter=0.16,
    kv_blocks=19_208,  # [K] 307,328 tokens a pod
    max_model_len=40_960,
)

SMALL_L40S: Final = Profile(
    about="a model of 1-3B, one L40S 48 GB",
    intake_s=0.005,  # [S] overhead 20 ms, less one step
    step_s=0.015,  # [S] 15 ms
    prefill_token_s=350e-6,  # [S]
    decode_s=0.015 * (1.5 - 1) / 255,  # [S] factor 1.5
    context_token_s=114_688 / 864e9,  # 112 KiB a token (Llama-3.2-3B), 864 GB/s
    jitter=0.13,  # [S] 15 +- 2 ms
    kv_blocks=19_000,  # (48 GB x 0.9 - 6.4 GB weights - 2 GB activations) / 112 KiB = 304,000 tokens
)

INSTANT: Final = Profile(
    about="no model at all: a millisecond a step, for tests of what stands in front",
    intake_s=0.0,
    step_s=0.001,
    prefill_token_s=1e-7,
    decode_s=0.0,
    context_token_s=0.0,
    jitter=0.0,
    kv_blocks=65_536,
    max_num_batched_tokens=1_048_576,
)

DEFAULT: Final = "llama-3.1-8b-h100"
PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        DEFAULT: LLAMA_8B_H100,
        "llama-3.1-70b-8xh100": LLAMA_70B_8H100,
        "qwen3-32b-2xh100": QWEN3_32B_2H100,
        "small-l40s": SMALL_L40S,
        "instant": INSTANT,
    }
)
