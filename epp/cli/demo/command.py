"""`epp demo`: engines, Envoy and epp on this machine, a round-robin run, a run with epp, one table."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import click
import uvloop
from rich.console import Console
from rich.progress import Progress

from epp.cli.demo import gateway, scene, stack
from epp.cli.demo.ports import Ports
from epp.cli.demo.processes import ChildError, Children
from epp.cli.loadreport import draw
from epp.load import report
from epp.load.progress import add, bars
from epp.load.run import Run, raise_open_files
from epp.load.summary import Summary

PORT = 8081
NAMES = ("round-robin", "epp")
T = TypeVar("T")


@click.command()
@click.option("--exit", "leave", is_flag=True, help="Leave after the table; status 0 if all were answered.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1, max=3600),
    default=28.0,
    show_default=True,
    help="Length of each of the two runs.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the conversations.")
@click.option(
    "--port",
    type=click.IntRange(min=1, max=65_000),
    default=PORT,
    show_default=True,
    help="Of the gateway; the round-robin one is on the next. Taken ports are replaced by free ones.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write both runs (JSON, as of epp load) and a picture (SVG) into this directory.",
)
def demo(leave: bool, seconds: float, seed: int, port: int, output: Path | None) -> None:
    """Eight simulated engines, a real Envoy and epp: the same conversations, round robin and picked."""
    raise_open_files()
    console = Console()
    try:
        envoy = gateway.find_envoy()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            failed = runner.run(_interruptible(console, envoy, leave, seconds, seed, port, output))
    except (gateway.GatewayMissingError, ChildError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except asyncio.CancelledError:
        sys.exit(130)
    sys.exit(1 if failed else 0)


async def _interruptible(
    console: Console, envoy: Path, leave: bool, seconds: float, seed: int, port: int, output: Path | None
) -> int:
    """Cancelled by SIGINT, SIGTERM and SIGHUP alike, so that the children are always ended in order."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    directory = Path(tempfile.mkdtemp(prefix="epp-demo-"))
    try:
        async with Children(directory) as children:
            failed = await _demo(console, children, envoy, seconds, seed, port, output, leave=leave)
    except BaseException as error:
        if isinstance(error, ChildError):
            console.print(f"The logs are in {directory}", markup=False)
        else:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    if failed:
        console.print(f"The logs are in {directory}", markup=False)
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return failed


async def _demo(
    console: Console,
    children: Children,
    envoy: Path,
    seconds: float,
    seed: int,
    port: int,
    output: Path | None,
    *,
    leave: bool,
) -> int:
    """The number of requests that were not answered."""
    ports = Ports()
    where = stack.choose(ports, children.directory, port)
    for moved in ports.moved:
        console.print(f"note: {moved}", markup=False)
    with console.status("starting eight engines, epp and Envoy"):
        await stack.start(where, children, envoy, scene.ENGINE_OPTIONS)
    with bars(console) as progress:
        playing = _twice(where, progress, seconds, seed)
        round_robin, picked = await _while_alive(children, playing)
    summaries = scene.summary_of(round_robin), scene.summary_of(picked)
    console.print()
    console.print(scene.comparison(*summaries))
    _report_errors(console, (round_robin, picked))
    if output is not None:
        _write(output, (round_robin, picked), summaries)
    if not leave:
        _invite(console, where)
        with suppress(asyncio.CancelledError):
            raise await children.first_death()
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()  # Ctrl-C is how this is meant to end
        console.print("\nstopping")
    return sum(summary.failed for summary in summaries)


async def _twice(where: stack.Stack, progress: Progress, seconds: float, seed: int) -> tuple[Run, Run]:
    """Round robin, then epp, each on engines that remember nothing."""
    tasks = add(progress, "round robin"), add(progress, "epp        ")
    round_robin = await scene.perform(where.round_robin_url, "rr", seconds, seed, progress, tasks[0])
    await stack.forget_prefixes(where)
    picked = await scene.perform(where.picked_url, "epp", seconds, seed, progress, tasks[1])
    return round_robin, picked


async def _while_alive(children: Children, work: Coroutine[None, None, T]) -> T:
    """The work's result. Raises ChildError as soon as a child ends."""
    playing = asyncio.create_task(work)
    death = asyncio.create_task(children.first_death())
    try:
        await asyncio.wait({playing, death}, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            raise death.result()
        return playing.result()
    finally:
        for task in (playing, death):
            task.cancel()
        await asyncio.gather(playing, death, return_exceptions=True)


def _report_errors(console: Console, runs: tuple[Run, Run]) -> None:
    failed = [record for run in runs for record in run.records if record.error]
    for record in failed[:5]:
        console.print(f"  {record.session}: {record.error} {record.detail[:200]}", markup=False)
    for name, run in zip(NAMES, runs, strict=True):
        for warning in run.health.warnings():
            console.print(f"warning, {name}: {warning}", markup=False, highlight=False, soft_wrap=True)


def _write(directory: Path, runs: Sequence[Run], summaries: Sequence[Summary]) -> None:
    """Both results as `epp load` writes them, and one picture of the two. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    results = []
    for name, run, summary in zip(NAMES, runs, summaries, strict=True):
        path = directory / f"{name}.json"
        report.write(path, run, summary, {"workload": "demo"}, run.health.warnings())
        results.append(report.read(path))
    draw(directory / "demo.svg", results)


def _invite(console: Console, where: stack.Stack) -> None:
    """Where everything is, and what to try."""
    body = (
        f'{{"model":"{scene.MODEL}","stream":true,"max_tokens":40,'
        '"messages":[{"role":"user","content":"Hello"}]}'
    )
    lines = [
        "",
        "The stack is up until Ctrl-C:",
        f"  gateway, routed by epp    {where.picked_url}",
        f"  gateway, round robin      {where.round_robin_url}",
        f"  metrics of epp            {where.epp_url}/metrics",
        f"  a decision and its why    {where.epp_url}/debug/decisions/REQUEST-ID",
        f"  Envoy's admin page        http://127.0.0.1:{where.gateway.admin}",
        f"  epp's configuration       {where.config}",
        "",
        "Try:",
        f"  curl -N {where.picked_url}/v1/chat/completions -H 'content-type: application/json' "
        f"-H 'x-request-id: hello' -d '{body}'",
        f"  curl -s '{where.epp_url}/debug/decisions/hello?format=text'",
        f"  curl -s {where.epp_url}/metrics | grep ^llm_d_epp_scheduler_attempts_total",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
