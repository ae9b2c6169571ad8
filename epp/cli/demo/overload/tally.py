"""Counts of a run: for a span of time, a band, and some tenants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, isinf

from epp.cli.demo.overload.play import Job


@dataclass(frozen=True, slots=True)
class Tally:
    """Of requests that were first asked in one span of time."""

    asked: int
    answered: int
    refused: int
    """Their last word was a refusal."""
    waiting: int
    """Neither answered nor refused."""
    failed: int
    refusals: int
    """Answers that said to come back, of all tries."""
    retry_after_s: tuple[int, int] | None
    """Least and most; None for no refusals."""
    ttft_p99_s: float | None
    """Of those that were not refused; inf where too many still wait; None for none."""

    @property
    def answered_share(self) -> float:
        return self.answered / self.asked if self.asked else 1.0


def tally(jobs: Iterable[Job], chosen: Callable[[Job], bool] = lambda job: True) -> Tally:
    seen = [job for job in jobs if chosen(job)]
    told = [seconds for job in seen for seconds in job.retry_after_s]
    kept = [job for job in seen if not job.away and not job.failure]
    return Tally(
        asked=len(seen),
        answered=sum(not job.failure and not isinf(job.answered_at) for job in seen),
        refused=sum(job.away for job in seen),
        waiting=sum(job.waits for job in seen),
        failed=sum(bool(job.failure) for job in seen),
        refusals=len(told),
        retry_after_s=(min(told), max(told)) if told else None,
        ttft_p99_s=_p99([job.ttft_s for job in kept]),
    )


def between(jobs: Iterable[Job], begin: float, end: float = inf) -> list[Job]:
    return [job for job in jobs if begin <= job.ask.at < end]


def _p99(values: Sequence[float]) -> float | None:
    """The nearest that was measured: none is made up between a second and never."""
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))] if values else None
