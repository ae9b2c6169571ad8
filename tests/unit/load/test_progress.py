"""What a display shows of a run."""

from __future__ import annotations

import asyncio
import io

from rich.console import Console

from epp.load.progress import add, bars, show, state, unwatch, watch
from epp.load.records import Live


def test_the_line_says_how_it_goes() -> None:
    live = Live(sent=12, open=2, done=10, errors=1, ttft_sum_s=2.0, ttft_count=8)
    assert state(live, 5.0) == "10 answered, 2 open, [red]1 errors[/red], 2.0 req/s, TTFT 250 ms"
    assert state(Live(), 0.0) == "0 answered, 0 open, 0 errors, 0.0 req/s"


def test_the_bar_fills_by_whichever_bound_is_nearer() -> None:
    progress = bars(Console(file=io.StringIO()))
    task = add(progress, "run")
    show(progress, task, Live(done=5, open=1), 2.0, seconds=10.0, requests=10)
    assert progress.tasks[0].completed == 0.5
    show(progress, task, Live(done=5, open=1), 12.0, seconds=10.0, requests=10)
    assert progress.tasks[0].completed == 1.0
    assert progress.tasks[0].fields["state"].endswith("finishing")
    unbounded = add(progress, "endless")
    show(progress, unbounded, Live(done=3), 12.0)
    assert progress.tasks[1].total is None


async def test_a_display_ends_with_the_last_state_and_prints_lines_without_a_terminal() -> None:
    output = io.StringIO()
    progress = bars(Console(file=output))
    task = add(progress, "run")
    live = Live(done=1)
    watcher = asyncio.create_task(watch(progress, task, live, lambda: 11.0, seconds=20.0))
    await asyncio.sleep(0)
    live.done = 7
    await unwatch([watcher])
    assert output.getvalue().startswith("run: 11 s, 1 answered")
    assert progress.tasks[0].fields["state"].startswith("7 answered")
