"""What a picker costs a gateway, in one run: plain Envoy, Envoy + a picker without logic, Envoy + epp.

    python bench/gateway.py [--quick] [--only plain,canned,epp] [--turns 3]

Targets: `plain` (no picker), `responder` (logic-free grpc.aio), `canned` (the compiled transport without
Python), `epp` (native transport) and `grpcio` (epp on grpcio), in front of a native upstream (an Envoy that
answers directly), so that the pickers are what is measured. Every cell (connections x body size x Envoy
configuration, then paced streams) is run for all targets in turn, several times over: noise of the machine
meets all alike, and ratios are taken within a turn. Whoever is not measured stands still. CPU is that of a
whole process. Prints what is wanted and what was reached, then every figure, and writes
out/bench-gateway.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import gateway_report
import wanted
import wrk
from gateway_cells import CELLS, QUICK, SMALL, TARGETS, Cell, Measured
from gateway_load import Bodies, idle_us_per_s, measure
from gateway_stack import Stack
from rich.console import Console
from rich.progress import Progress
from stack import ROOT


def run(
    stack: Stack, names: Sequence[str], cells: Sequence[Cell], bodies: Bodies, turns: int, seconds: int
) -> list[Measured]:
    measured = []
    rounds = [[name for name in names if name in cell.targets] for cell in cells]
    with Progress(console=console(), transient=True) as progress:
        task = progress.add_task("", total=turns * sum(map(len, rounds)))
        for turn in range(turns):
            for cell, present in zip(cells, rounds, strict=True):
                shift = turn % max(1, len(present))
                for name in present[shift:] + present[:shift]:
                    progress.update(task, description=f"{cell.name}: {name}")
                    measured.append(measure(stack.target(name, cell), cell, bodies, turn, seconds))
                    progress.advance(task)
    return measured


def warm(stack: Stack, names: Sequence[str], cells: Sequence[Cell], bodies: Bodies) -> dict[str, float]:
    """Connections, code paths and caches of every gateway; then what each picker costs while nobody asks."""
    idle = {}
    for cell in cells:
        for name in names:
            if name in cell.targets:
                target = stack.target(name, cell)
                measure(target, SMALL, bodies, -1, 1)
                if target.picker and name not in idle:
                    with target.awake():
                        idle[name] = idle_us_per_s(target)
    return idle


def console() -> Console:
    shown = Console()
    return shown if shown.is_terminal else Console(width=150)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Three cells, one turn: under a minute and a half.")
@click.option("--only", default=",".join(TARGETS), show_default=True, help="Targets, comma separated.")
@click.option("--seconds", default=3, show_default=True, type=click.IntRange(1), help="Length of one run.")
@click.option(
    "--turns", default=3, show_default=True, type=click.IntRange(1), help="Interleaved repetitions."
)
@click.option(
    "--endpoints", default=8, show_default=True, type=click.IntRange(2, 64), help="Upstream endpoints."
)
@click.option(
    "--out", default=ROOT / "out/bench-gateway.json", type=click.Path(path_type=Path), help="JSON result."
)
def main(quick: bool, only: str, seconds: int, turns: int, endpoints: int, out: Path) -> None:
    asked = only.split(",")
    if unknown := set(asked) - set(TARGETS):
        words = f"{', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}"
        raise click.BadParameter(words, param_hint="--only")
    if not wrk.installed():
        raise click.ClickException(wrk.HOW_TO_INSTALL)
    names = [name for name in TARGETS if name in asked]
    cells = QUICK if quick else CELLS
    if quick:
        seconds, turns = min(seconds, 2), 1
    with tempfile.TemporaryDirectory(prefix="epp-bench-") as folder, contextlib.ExitStack() as live:
        bodies = Bodies(Path(folder))
        stack = Stack(names, cells, endpoints, Path(folder), live)
        idle = warm(stack, names, cells, bodies)
        measured = run(stack, names, cells, bodies, turns, seconds)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    about = {"machine": machine, "endpoints": endpoints, "seconds": seconds, "turns": turns}
    console().print(gateway_report.tables(measured, idle, about))
    out.parent.mkdir(parents=True, exist_ok=True)
    reached = wanted.reached(measured)
    found = {
        "lines": [asdict(row.line()) for row in reached],
        "wanted": [row.plain() for row in reached],
        "idle_us_per_s": idle,
        "runs": [{**asdict(m), "cell": m.cell.name, "per_s": m.per_s} for m in measured],
    }
    out.write_text(json.dumps({**about, **found}, indent=1))
    console().print(f"written: {out}")
    if any(m.errors for m in measured):
        raise click.ClickException("some requests failed: see the errors column")


if __name__ == "__main__":
    main()
