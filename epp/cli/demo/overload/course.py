"""The demo from its start to its end: both runs, the tables, the verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live

from epp.cli.demo.lifetime import Options, stay, while_alive
from epp.cli.demo.overload import scene, stack, tables
from epp.cli.demo.overload.play import Job, Play
from epp.cli.demo.overload.tally import between, tally
from epp.cli.demo.overload.verdict import complaints
from epp.cli.demo.ports import Ports
from epp.cli.demo.processes import Children

QUEUED, UNLIMITED = "with queues", "without"


async def overloaded(console: Console, envoy: Path, options: Options, children: Children) -> bool:
    """Whether everything held that the demo promises."""
    ports = Ports()
    where = stack.choose(ports, children.directory, options.port)
    for moved in ports.moved:
        console.print(f"note: {moved}", markup=False)
    with console.status("starting two engines, and twice Envoy and epp: with queues and without"):
        await stack.start(where, children, envoy)
    phases = scene.Phases.of(options.seconds)
    asks = scene.asks(phases, options.seed)
    runs: dict[str, Sequence[Job]] = {}
    for name, picker in ((UNLIMITED, where.open), (QUEUED, where.queued)):
        playing = _show(console, name, Play(picker.url, picker.name), asks, phases)
        runs[name] = await while_alive(children, playing)
    console.print(tables.comparison(runs, phases))
    wrong = complaints(runs[QUEUED], runs[UNLIMITED], phases)
    for sentence in wrong:
        console.print(f"not as promised: {sentence}", markup=False)
    if options.output is not None:
        _write(options.output, runs, phases)
    if not options.leave:
        await stay(console, children, _invitation(where))
    return not wrong


async def _show(
    console: Console, name: str, play: Play, asks: Sequence[scene.Ask], phases: scene.Phases
) -> Sequence[Job]:
    """One run, with its live table."""
    with Live(console=console, auto_refresh=False, transient=False) as live:
        watching = asyncio.create_task(tables.watch(live, name, play, phases))
        try:
            await play.run(asks, phases)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            live.update(tables.picture(name, play.jobs, phases, play.clock()), refresh=True)
    console.print()
    return play.jobs


def _write(directory: Path, runs: dict[str, Sequence[Job]], phases: scene.Phases) -> None:
    """The counts of both runs, by span and band. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    spans = {
        "calm": (0.0, phases.flood_at),
        "flood": (phases.flood_at, phases.ebb_at),
        "ebb": (phases.ebb_at, phases.calm_at),
        "after": (phases.calm_at, phases.end_at),
    }
    written = {
        run: {
            span: {band.name: tally(_of(band, between(jobs, *limits))) for band in scene.BANDS}
            for span, limits in spans.items()
        }
        for run, jobs in runs.items()
    }
    (directory / "overload.json").write_bytes(msgspec.json.format(msgspec.json.encode(written)))


def _of(band: scene.Band, jobs: Sequence[Job]) -> Sequence[Job]:
    return [job for job in jobs if job.ask.band is band]


def _invitation(where: stack.Stack) -> list[str]:
    queued = where.queued
    body = (
        f'{{"model":"{scene.MODEL}","stream":true,"max_tokens":40,'
        '"messages":[{"role":"user","content":"Hello"}]}'
    )
    return [
        "",
        "The stack is up until Ctrl-C:",
        f"  gateway, with queues      {queued.url}",
        f"  gateway, without          {where.open.url}",
        f"  metrics of epp            {queued.epp_url}/metrics",
        f"  epp's configuration       {queued.config}",
        "",
        "Try:",
        f"  curl -N {queued.url}/v1/chat/completions -H 'content-type: application/json' "
        f"-H 'x-llm-d-inference-objective: batch' -d '{body}'",
        f"  curl -s '{queued.epp_url}/debug/flowcontrol?format=text'",
        f"  curl -s {queued.epp_url}/metrics | grep ^llm_d_epp_flow_control_requests_total",
    ]
