"""What bench/overload.py reports of its runs: by band, by tenant, and whether the bands were kept in order.

Plain goodput counts the answers that ended within the measured time. What a client saw (TTFT, refusals,
whether it was answered within the SLO) counts for requests that came within it; others come on after it for
as long as the longest SLO, so that the last ones fare as the first. Several seeds are taken together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from overload_scene import BANDS, FAIR_SHARE, FLOODER, TENANTS, Job, share_of


@dataclass(frozen=True, slots=True)
class Played:
    """One run."""

    jobs: Sequence[Job]
    sent: Sequence[tuple[float, int]]
    """When a request of which priority went to an engine."""


@dataclass(frozen=True, slots=True)
class Span:
    """What is measured of a run, seconds."""

    warm_s: float
    until_s: float
    tail_s: float = max(band.slo_s for band in BANDS)
    """For so long requests come on."""

    @property
    def seconds(self) -> float:
        return self.until_s - self.warm_s


@dataclass(frozen=True, slots=True)
class BandFigures:
    """Goodputs as shares of capacity; times in seconds from when the client first asked."""

    offered: float
    goodput: float
    slo_goodput: float
    ttft_p50_s: float
    ttft_p99_s: float
    """Of those that were answered; inf for none."""
    others_p99_s: float
    """The same for all tenants but the flooder."""
    onset_p99_s: float
    """The same for those of the first 30 s of the run, into an idle pool."""
    unanswered: float
    """Share of requests whose client went away after its last refusal."""
    refusals: int
    """Answers with 429."""
    retry_after_s: tuple[float, float, float]
    """Least, median, most; 0 where none was refused."""


@dataclass(frozen=True, slots=True)
class Figures:
    admission: str
    load: float
    bands: dict[str, BandFigures]
    goodput: float
    slo_goodput: float
    tenants: tuple[float, ...]
    """Goodput within the SLOs of each, as a share of capacity; the flooder first."""
    answered: tuple[float, ...]
    """Share of what each asked for, in tokens, that was answered within the SLO."""
    jain: float
    """Of the tenants' goodputs within the SLOs, each divided by its max-min fair share."""
    inversions: int
    """Refusals of the top band during whose wait, or within the second before, a lower band was served."""


def figures(
    admission: str, load: float, runs: Sequence[Played], span: Span, requests_s: float, tokens_s: float
) -> Figures:
    """`requests_s` and `tokens_s` are the capacity of the engines."""
    total = span.seconds * tokens_s * len(runs)
    jobs = [job for run in runs for job in run.jobs]
    came = [job for job in jobs if span.warm_s <= job.ask.at < span.until_s]
    ended = [job for job in jobs if span.warm_s <= job.finished_at < span.until_s]
    bands = {}
    for band in BANDS:
        own = [job for job in came if job.ask.band == band]
        onset = [job.ttft_s for job in jobs if job.ask.band == band and job.ask.at < min(30.0, span.until_s)]
        ttft = [job.ttft_s for job in own if job.ttft_s < inf]
        retry = [seconds for job in own for seconds in job.retry_after_s]
        bands[band.name] = BandFigures(
            offered=_tokens(own) / total,
            goodput=_tokens(job for job in ended if job.ask.band == band) / total,
            slo_goodput=_tokens(job for job in own if job.within_slo) / total,
            ttft_p50_s=_percentile(ttft, 50),
            ttft_p99_s=_percentile(ttft, 99),
            others_p99_s=_percentile(
                [job.ttft_s for job in own if job.ask.tenant != FLOODER and job.ttft_s < inf], 99
            ),
            onset_p99_s=_percentile([seconds for seconds in onset if seconds < inf], 99),
            unanswered=1.0 - len(ttft) / max(1, len(own)),
            refusals=sum(len(job.refused_at) for job in own),
            retry_after_s=(min(retry), _percentile(retry, 50), max(retry)) if retry else (0.0, 0.0, 0.0),
        )
    asked = [[job for job in came if job.ask.tenant == i] for i in range(TENANTS)]
    in_time = [_tokens(job for job in own if job.within_slo) for own in asked]
    fair = fair_shares([share_of(i, load) for i in range(TENANTS)])
    return Figures(
        admission, load, bands,
        goodput=_tokens(ended) / total,
        slo_goodput=sum(in_time) / total,
        tenants=tuple(tokens / total for tokens in in_time),
        answered=tuple(_share_in_slo(own) for own in asked),
        jain=jain([tokens / total / share for tokens, share in zip(in_time, fair, strict=True)]),
        inversions=sum(_inversions(run) for run in runs),
    )  # fmt: skip


def fair_shares(offered: Sequence[float]) -> list[float]:
    """Max-min: nobody gets more than it asks for; what is left is shared by the others."""
    left, given = 1.0, dict.fromkeys(range(len(offered)), 0.0)
    for count, i in enumerate(sorted(given, key=lambda i: offered[i])):
        given[i] = min(offered[i], left / (len(offered) - count))
        left -= given[i]
    return list(given.values())


def jain(values: Sequence[float]) -> float:
    """1 where all are equal, 1/n where one has everything."""
    squares = len(values) * sum(value * value for value in values)
    return sum(values) ** 2 / squares if squares else 1.0


def lost(before: Figures, after: Figures) -> float:
    """The largest share of its answers within the SLOs that a tenant below its fair share has lost. What
    these ask for is the same at any load."""
    pairs = zip(before.answered, after.answered, strict=True)
    small = [i for i in range(TENANTS) if share_of(i, after.load) < FAIR_SHARE]
    losses = {i: 1.0 - new / old for i, (old, new) in enumerate(pairs) if old}
    return max(0.0, *(losses.get(i, 0.0) for i in small))


def _inversions(run: Played) -> int:
    top = BANDS[0].priority
    lower = [at for at, priority in run.sent if priority < top]
    count = 0
    for job in run.jobs:
        if job.ask.band.priority != top:
            continue
        began = job.ask.at
        for at, retry_s in zip(job.refused_at, job.retry_after_s, strict=True):
            first = bisect_left(lower, min(began, at - 1.0))
            count += first < len(lower) and lower[first] <= at
            began = at + retry_s
    return count


def _share_in_slo(jobs: Sequence[Job]) -> float:
    return _tokens(job for job in jobs if job.within_slo) / max(1.0, _tokens(jobs))


def _tokens(jobs: Iterable[Job]) -> float:
    return float(sum(job.ask.tokens for job in jobs))


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else inf
