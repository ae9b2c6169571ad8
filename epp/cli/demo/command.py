"""`epp demo`: engines, Envoy and epp on this machine, a round-robin run, a run with epp, one table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from epp.cli.demo import gateway, scene, stack
from epp.cli.demo.lifetime import Options, perform, stay, while_alive
from epp.cli.demo.overload import overloaded
from epp.cli.demo.ports import Ports
from epp.cli.demo.processes import Children
from epp.cli.loadreport import draw
from epp.load import report
from epp.load.progress import add, bars
from epp.load.run import Run
from epp.load.summary import Summary

PORT = 8081
NAMES = ("round-robin", "epp")


@click.command()
@click.option("--overload", is_flag=True, help="Flood two engines: with queues by priority, and without.")
@click.option("--exit", "leave", is_flag=True, help="Leave after the table; status 0 if all went well.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1, max=3600),
    default=28.0,
    show_default=True,
    help="Length of each of the two runs.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is played.")
@click.option(
    "--port",
    type=click.IntRange(min=1, max=65_000),
    default=PORT,
    show_default=True,
    help="Of the gateway; the one to compare with is on the next. Taken ports are replaced by free ones.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the results of both runs into this directory.",
)
def demo(overload: bool, leave: bool, seconds: float, seed: int, port: int, output: Path | None) -> None:
    """Eight simulated engines, a real Envoy and epp: the same conversations, round robin and picked.

    With --overload: two engines with little room, and a tenant that floods them; with queues and without.
    """
    console = Console()
    try:
        envoy = gateway.find_envoy()
    except gateway.GatewayMissingError as error:
        raise click.ClickException(str(error)) from error
    play = overloaded if overload else _demo
    options = Options(seconds, seed, port, output, leave)
    sys.exit(perform(console, partial(play, console, envoy, options)))


async def _demo(console: Console, envoy: Path, options: Options, children: Children) -> bool:
    """Whether every request was answered."""
    ports = Ports()
    where = stack.choose(ports, children.directory, options.port)
    for moved in ports.moved:
        console.print(f"note: {moved}", markup=False)
    with console.status("starting eight engines, epp and Envoy"):
        await stack.start(where, children, envoy, scene.ENGINE_OPTIONS)
    with bars(console) as progress:
        playing = _twice(where, progress, options.seconds, options.seed)
        round_robin, picked = await while_alive(children, playing)
    summaries = scene.summary_of(round_robin), scene.summary_of(picked)
    console.print()
    console.print(scene.comparison(*summaries))
    _report_errors(console, (round_robin, picked))
    if options.output is not None:
        _write(options.output, (round_robin, picked), summaries)
    if not options.leave:
        await stay(console, children, _invitation(where))
    return not any(summary.failed for summary in summaries)


async def _twice(where: stack.Stack, progress: Progress, seconds: float, seed: int) -> tuple[Run, Run]:
    """Round robin, then epp, each on engines that remember nothing."""
    tasks = add(progress, "round robin"), add(progress, "epp        ")
    round_robin = await scene.perform(where.round_robin_url, "rr", seconds, seed, progress, tasks[0])
    await stack.forget_prefixes(where)
    picked = await scene.perform(where.picked_url, "epp", seconds, seed, progress, tasks[1])
    return round_robin, picked


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


def _invitation(where: stack.Stack) -> list[str]:
    """Where everything is, and what to try."""
    body = (
        f'{{"model":"{scene.MODEL}","stream":true,"max_tokens":40,'
        '"messages":[{"role":"user","content":"Hello"}]}'
    )
    return [
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
