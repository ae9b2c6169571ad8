"""Numbers of a run: throughput, latencies, goodput, caching, errors. Pure; units in the names.

Terms and field names are those of vLLM's serving benchmark: TTFT from sending to the first token, TPOT the
mean time of each further token of a request, ITL every single gap between streamed chunks, E2EL from sending
to the end. The fields with `arrival` count from when the workload wanted the request sent, so a generator
that falls behind cannot flatter its target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epp.load.records import Record

PERCENTILES = (50, 90, 99)
METRICS = ("ttft", "tpot", "itl", "e2el", "ttft_arrival", "e2el_arrival", "lag")
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True)
class Spread:
    """A latency's distribution, in milliseconds; all 0 where nothing was measured."""

    count: int = 0
    mean: float = 0.0
    std: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, seconds: Iterable[float] | NDArray[np.float64]) -> Spread:
        values = np.asarray(seconds if isinstance(seconds, np.ndarray) else list(seconds), dtype=np.float64)
        if not len(values):
            return cls()
        values = values * 1000.0
        p50, p90, p99 = np.percentile(values, PERCENTILES)
        return cls(
            len(values), float(values.mean()), float(values.std()),
            float(p50), float(p90), float(p99), float(np.max(values)),
        )  # fmt: skip


def parse_goodput(pairs: Sequence[str]) -> dict[str, float]:
    """`ttft:500` and the like, in milliseconds. Raises ValueError."""
    limits: dict[str, float] = {}
    for pair in (part for text in pairs for part in text.replace(",", " ").split()):
        name, _, value = pair.partition(":")
        try:
            limit = float(value)
        except ValueError:
            limit = 0.0
        if name not in GOODPUT_METRICS or not 0 < limit < float("inf"):
            raise ValueError(f"{pair!r}: write METRIC:MILLISECONDS with {', '.join(GOODPUT_METRICS)}")
        limits[name] = limit
    return limits


def good(record: Record, limits: Mapping[str, float]) -> bool:
    """Answered, and within every limit (ms). An answer of one token has no further ones and meets TPOT."""
    if not record.ok:
        return False
    measured = {"ttft": record.ttft_s, "tpot": record.tpot_s or 0.0, "e2el": record.e2e_s}
    for name, limit in limits.items():
        value = measured[name]
        if value is None or value * 1000.0 > limit:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Summary:
    """All numbers of one run."""

    duration_s: float
    completed: int
    failed: int
    total_input_tokens: int
    total_output_tokens: int
    cached_tokens: int
    cached_share: float | None
    """Cached prompt tokens of all prompt tokens, over answers that report it; None where none does."""
    goodput_limits_ms: Mapping[str, float]
    good: int
    most_open: int
    spreads: Mapping[str, Spread]
    """By METRICS."""
    statuses: Mapping[str, int]
    errors: Mapping[str, int]
    retry_after: int
    """Answers that asked to come back later."""
    endpoints: Mapping[str, int]
    """Requests by who answered, where a header told."""

    @property
    def request_throughput(self) -> float:
        return self._per_second(self.completed)

    @property
    def request_goodput(self) -> float:
        return self._per_second(self.good)

    @property
    def output_throughput(self) -> float:
        return self._per_second(self.total_output_tokens)

    @property
    def total_token_throughput(self) -> float:
        return self._per_second(self.total_input_tokens + self.total_output_tokens)

    def _per_second(self, count: float) -> float:
        return count / self.duration_s if self.duration_s > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """Flat, with the field names of vLLM's result files where the meaning is the same."""
        out: dict[str, Any] = {
            "duration": self.duration_s,
            "completed": self.completed,
            "failed": self.failed,
            "total_input_tokens": self.total_input_tokens,
            "total_output_tokens": self.total_output_tokens,
            "request_throughput": self.request_throughput,
            "request_goodput": self.request_goodput if self.goodput_limits_ms else None,
            "goodput_limits_ms": dict(self.goodput_limits_ms),
            "output_throughput": self.output_throughput,
            "total_token_throughput": self.total_token_throughput,
            "max_concurrent_requests": self.most_open,
            "cached_tokens": self.cached_tokens,
            "cached_token_share": self.cached_share,
        }
        for name, spread in self.spreads.items():
            out[f"mean_{name}_ms"] = spread.mean
            out[f"median_{name}_ms"] = spread.p50
            out[f"std_{name}_ms"] = spread.std
            for share in PERCENTILES:
                out[f"p{share}_{name}_ms"] = getattr(spread, f"p{share}")
            out[f"max_{name}_ms"] = spread.max
        out["statuses"] = dict(self.statuses)
        out["errors"] = dict(self.errors)
        out["retry_after"] = self.retry_after
        out["endpoints"] = dict(self.endpoints)
        return out


def summarise(
    records: Sequence[Record],
    duration_s: float,
    *,
    goodput: Mapping[str, float] | None = None,
    most_open: int = 0,
) -> Summary:
    """Latencies and tokens count answered requests only; errors are counted apart, never averaged in."""
    limits = goodput or {}
    answered = [record for record in records if record.ok]
    reporting = [record for record in answered if record.cached_tokens is not None]
    prompt_tokens = sum(record.input_tokens for record in reporting)
    cached = sum(record.cached_tokens or 0 for record in reporting)
    gaps = [np.asarray(record.gaps, dtype=np.float64) for record in answered if record.gaps]
    spreads = {
        "ttft": Spread.of(t for r in answered if (t := r.ttft_s) is not None),
        "tpot": Spread.of(t for r in answered if (t := r.tpot_s) is not None),
        "itl": Spread.of(np.concatenate(gaps)) if gaps else Spread(),
        "e2el": Spread.of(r.e2e_s for r in answered),
        "ttft_arrival": Spread.of(t + r.lag_s for r in answered if (t := r.ttft_s) is not None),
        "e2el_arrival": Spread.of(r.e2e_s + r.lag_s for r in answered),
        "lag": Spread.of(r.lag_s for r in records),
    }
    return Summary(
        duration_s=duration_s,
        completed=len(answered),
        failed=len(records) - len(answered),
        total_input_tokens=sum(record.input_tokens for record in answered),
        total_output_tokens=sum(record.output_tokens for record in answered),
        cached_tokens=cached,
        cached_share=cached / prompt_tokens if prompt_tokens else None,
        goodput_limits_ms=limits,
        good=sum(good(record, limits) for record in records) if limits else 0,
        most_open=most_open,
        spreads=spreads,
        statuses=_count(str(record.status) if record.status else "none" for record in records),
        errors=_count(record.error for record in records if record.error),
        retry_after=sum(bool(record.retry_after) for record in records),
        endpoints=_count(record.endpoint for record in records if record.endpoint),
    )


def _count(words: Iterable[str]) -> dict[str, int]:
    """By name, so that two runs list the same things in the same order."""
    return dict(sorted(Counter(words).items()))
