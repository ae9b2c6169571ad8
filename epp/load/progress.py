"""Live progress of a run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from epp.load.records import Live

REFRESH_S = 0.2
LINE_EVERY_S = 10.0


def bars(console: Console) -> Progress:
    """A display for one or more runs; `watch` moves its tasks."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=16),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
        refresh_per_second=1 / REFRESH_S,
        disable=not console.is_terminal,
    )


def add(progress: Progress, description: str) -> TaskID:
    return progress.add_task(description, total=None, state="", start=False)


async def watch(
    progress: Progress,
    task: TaskID,
    live: Live,
    clock: Callable[[], float],
    *,
    seconds: float | None = None,
    requests: int | None = None,
) -> None:
    """Until cancelled. The bar fills by requests answered or by time, whichever bounds the run."""
    progress.start_task(task)
    next_line = LINE_EVERY_S
    try:
        while True:
            show(progress, task, live, clock(), seconds=seconds, requests=requests)
            if progress.disable and clock() >= next_line:
                next_line += LINE_EVERY_S
                name = progress.tasks[task].description.strip()
                progress.console.print(f"{name}: {clock():.0f} s, {state(live, clock())}", highlight=False)
            await asyncio.sleep(REFRESH_S)
    finally:
        show(progress, task, live, clock(), seconds=seconds, requests=requests)
        progress.stop_task(task)


async def unwatch(watchers: Sequence[asyncio.Task[None]]) -> None:
    """Ends the displays; each shows the last state first."""
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)


def show(
    progress: Progress,
    task: TaskID,
    live: Live,
    now: float,
    *,
    seconds: float | None = None,
    requests: int | None = None,
) -> None:
    shares = []
    if requests:
        shares.append(live.done / requests)
    if seconds:
        shares.append(now / seconds)
    total = 1.0 if shares else None
    text = state(live, now)
    if seconds and now > seconds and live.open:
        text += ", finishing"
    progress.update(task, completed=min(1.0, max(shares, default=0.0)), total=total, state=text)


def state(live: Live, now: float) -> str:
    """One line: how far, how many open, errors, speed."""
    rate = live.done / now if now > 0 else 0.0
    errors = f"[red]{live.errors} errors[/red]" if live.errors else "0 errors"
    text = f"{live.done} answered, {live.open} open, {errors}, {rate:.1f} req/s"
    if live.ttft_count:
        text += f", TTFT {live.mean_ttft_s * 1000:.0f} ms"
    return text
