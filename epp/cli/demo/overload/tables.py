"""What is shown: a live table of the bands while a run goes on, and at the end both runs side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from math import isinf

from rich.live import Live
from rich.table import Table

from epp.cli.demo.overload.play import Job, Play
from epp.cli.demo.overload.scene import BANDS, FLOODER, Band, Phases
from epp.cli.demo.overload.tally import between, tally

_WINDOW_S = 3.0
_REFRESH_S = 0.5


async def watch(live: Live, title: str, play: Play, phases: Phases) -> None:
    """Until it is cancelled."""
    while True:
        live.update(picture(title, play.jobs, phases, play.clock()), refresh=True)
        await asyncio.sleep(_REFRESH_S)


def picture(title: str, jobs: Sequence[Job], phases: Phases, now: float) -> Table:
    """The bands as they are now: rates over the last seconds, counts since the start."""
    told = f"{title}: {min(now, phases.end_at):.0f} of {phases.end_at:.0f} s, {phases.name(now)}"
    table = Table(title=told, title_justify="left", box=None, pad_edge=False, collapse_padding=True)
    table.add_column("", style="bold")
    for head in ("offered/s", "answered/s", "waiting", "p99 TTFT (s)", "429s", "Retry-After (s)"):
        table.add_column(head, justify="right", no_wrap=True)
    since = max(0.0, now - _WINDOW_S)
    span = max(now - since, _REFRESH_S)
    for band in BANDS:
        mine = [job for job in jobs if job.ask.band is band]
        whole = tally(mine)
        recent = [job for job in mine if since < job.first_token_at <= now]
        table.add_row(
            band.name,
            f"{len(between(mine, since, now)) / span:.1f}",
            f"{sum(since < job.answered_at <= now for job in mine) / span:.1f}",
            str(whole.waiting),
            seconds(tally(recent).ttft_p99_s),
            str(whole.refusals),
            _range(whole.retry_after_s),
        )
    return table


def comparison(runs: Mapping[str, Sequence[Job]], phases: Phases) -> Table:
    """Those who asked during the flood, then those who asked when it should be forgotten."""
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("", *runs):
        table.add_column(head, justify="right" if head else "left")
    floods = {name: between(jobs, phases.flood_at, phases.ebb_at) for name, jobs in runs.items()}
    calms = {name: between(jobs, phases.calm_at) for name, jobs in runs.items()}
    for title, spans in (("while it floods", floods), ("afterwards", calms)):
        table.add_row(f"[bold]{title}")
        for band in BANDS:
            seen = [tally(jobs, partial(_of, band)) for jobs in spans.values()]
            table.add_row(f"  {band.name}: answered", *(f"{one.answered_share:.0%}" for one in seen))
            if title == "while it floods" and band is not BANDS[0]:
                small = [tally(jobs, partial(_small, band)) for jobs in spans.values()]
                table.add_row(
                    "    of those who do not flood", *(f"{one.answered_share:.0%}" for one in small)
                )
            table.add_row("    p99 TTFT (s)", *(seconds(one.ttft_p99_s) for one in seen))
            if any(one.refusals for one in seen):
                table.add_row("    429s", *(str(one.refusals) for one in seen))
                table.add_row("    Retry-After (s)", *(_range(one.retry_after_s) for one in seen))
    return table


def seconds(value: float | None) -> str:
    return "-" if value is None else "not yet" if isinf(value) else f"{value:.2f}"


def _of(band: Band, job: Job) -> bool:
    return job.ask.band is band


def _small(band: Band, job: Job) -> bool:
    return job.ask.band is band and job.ask.tenant != FLOODER


def _range(told: tuple[int, int] | None) -> str:
    if told is None:
        return "-"
    least, most = told
    return str(least) if least == most else f"{least}-{most}"
