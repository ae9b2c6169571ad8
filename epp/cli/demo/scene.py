"""What the demo plays: chats of several turns, twice, and the table that compares the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from random import Random

from rich.progress import Progress, TaskID
from rich.table import Table

from epp.load import progress as shown
from epp.load.arrivals import bounded, poisson
from epp.load.calls import Manner, Mix, Workload
from epp.load.conversations import Conversations, Shape, scaled
from epp.load.player import Limits
from epp.load.records import Live
from epp.load.run import Run, play
from epp.load.summary import Summary, summarise
from epp.load.transport import Pool, Target
from epp.load.workload import arrive

MODEL = "demo-model"
CHATS_A_SECOND = 3.2
SHAPE = replace(
    scaled(Shape(systems=4, min_turns=4, max_turns=10, max_context=12_000), lengths=0.45, pauses=0.012),
    answer_scale=0.2,
)
"""The fitted chats (see epp.load.conversations) squeezed into half a minute: shorter, with pauses of 1.5 s in
the median, and every one with four turns at least, since a minute shows nothing of chats that last half an
hour. Answers are shorter still: what they cost here is the CPU of the demo's own processes."""
ENGINE_OPTIONS = (f"--model={MODEL}", "--profile=llama-3.1-8b-h100")


def workload(seconds: float, seed: int) -> Workload:
    """The same chats for the same seed; later turns differ by what was really answered."""
    arrivals = bounded(poisson(CHATS_A_SECOND, Random(f"{seed}/arrivals")), seconds=seconds)
    return arrive(arrivals, seed, Conversations(Manner(Mix((MODEL,), (1.0,))), seed, SHAPE).make)


async def perform(url: str, name: str, seconds: float, seed: int, progress: Progress, task: TaskID) -> Run:
    """One run, with its bar. Raises CancelledError if it is broken off."""
    watchers: list[asyncio.Task[None]] = []

    def started(live: Live, clock: Callable[[], float]) -> None:
        watchers.append(asyncio.create_task(shown.watch(progress, task, live, clock, seconds=seconds)))

    pool = Pool(Target.parse(url))
    try:
        run = await play(
            pool,
            workload(seconds, seed),
            Limits(seconds=seconds),
            timeout_s=120.0,
            name=name,
            on_start=started,
        )
    finally:
        await shown.unwatch(watchers)
        await pool.close()
    if run.interrupted:
        raise asyncio.CancelledError
    progress.update(task, completed=1.0)
    return run


def summary_of(run: Run) -> Summary:
    return summarise(run.records, run.duration_s, most_open=run.most_open)


def comparison(round_robin: Summary, picked: Summary) -> Table:
    """The demo's one table."""
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("", style="bold")
    for title in ("round robin", "epp", "ratio"):
        table.add_column(title, justify="right")

    def row(title: str, form: str, value: Callable[[Summary], float | None]) -> None:
        left, right = value(round_robin), value(picked)
        ratio = f"{right / left:.2f}" if left and right is not None else ""
        table.add_row(title, *("-" if v is None else form.format(v) for v in (left, right)), ratio)

    both = (round_robin, picked)
    table.add_row("requests answered", *(str(one.completed) for one in both), "")
    table.add_row("errors", *(str(one.failed) for one in both), "")
    row("mean TTFT (ms)", "{:.0f}", lambda one: one.spreads["ttft"].mean)
    row("p99 TTFT (ms)", "{:.0f}", lambda one: one.spreads["ttft"].p99)
    row("mean latency (ms)", "{:.0f}", lambda one: one.spreads["e2el"].mean)
    row("cached tokens of prompts", "{:.1%}", lambda one: one.cached_share)
    table.add_row("requests an engine", *(_range(one) for one in both), "")
    return table


def _range(summary: Summary) -> str:
    counts = summary.endpoints.values()
    return f"{min(counts)}-{max(counts)} ({len(counts)} engines)" if counts else "-"
