"""The gateway benchmark's measurements as tables: what is wanted and reached, then every load and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import wanted
import wanted_table
from gateway_cells import TARGETS, Cell, Measured
from gateway_stack import CHUNKS_PER_S, STREAM_CHUNKS
from rich.console import Group
from rich.table import Table
from rich.text import Text


def tables(measured: Sequence[Measured], idle: Mapping[str, float], about: Mapping[str, object]) -> Group:
    title = Text(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in about.items()), style="dim")
    costs = ", ".join(f"{name} {us / 1000:.1f} ms of CPU a second" for name, us in idle.items())
    notes = Text(f"medians over turns; pickers while nobody asks: {costs or 'none'}", style="dim")
    lines = [reached.line() for reached in wanted.reached(measured)]
    return Group(title, wanted_table.table(lines), _requests(measured), _streams(measured), notes)


def _requests(measured: Sequence[Measured]) -> Table | Text:
    loads = _cells(measured, stream=False)
    if not loads:
        return Text("")
    table = Table(title="requests, closed loop")
    for name in ("load", "gateway"):
        table.add_column(name)
    columns = ("requests/s", "spread", "p50 ms", "p99 ms", "Envoy us/request", "picker us/request", "errors")
    for name in columns:
        table.add_column(name, justify="right")
    for cell in loads:
        for target, runs in _runs(measured, cell):
            rates = [m.per_s for m in runs]
            table.add_row(
                cell.name,
                target,
                f"{median(rates):,.0f}",
                f"{min(rates):,.0f}-{max(rates):,.0f}",
                f"{median(m.p50_ms for m in runs):.2f}",
                f"{median(m.p99_ms for m in runs):.2f}",
                f"{median(m.envoy_us for m in runs):,.0f}",
                f"{median(m.picker_us for m in runs):,.0f}" if target != "plain" else "-",
                str(sum(m.errors for m in runs)),
            )
        table.add_section()
    return table


def _streams(measured: Sequence[Measured]) -> Table | Text:
    loads = _cells(measured, stream=True)
    if not loads:
        return Text("")
    table = Table(
        title=f"streamed answers: {STREAM_CHUNKS} chunks each, {CHUNKS_PER_S} a second; without idle costs"
    )
    for name in ("load", "gateway"):
        table.add_column(name)
    for name in ("chunks/s", "Envoy us/chunk", "picker us/chunk", "errors"):
        table.add_column(name, justify="right")
    for cell in loads:
        for target, runs in _runs(measured, cell):
            table.add_row(
                cell.name,
                target,
                f"{median(m.per_s for m in runs):,.0f}",
                f"{median(m.envoy_us for m in runs):,.1f}",
                f"{median(m.picker_us for m in runs):,.1f}" if target != "plain" else "-",
                str(sum(m.errors for m in runs)),
            )
        table.add_section()
    return table


def _cells(measured: Sequence[Measured], *, stream: bool) -> list[Cell]:
    return list(dict.fromkeys(m.cell for m in measured if m.cell.stream == stream))


def _runs(measured: Sequence[Measured], cell: Cell) -> list[tuple[str, list[Measured]]]:
    """Of a load, by target."""
    by_target = {name: [m for m in measured if m.cell == cell and m.target == name] for name in TARGETS}
    return [(name, runs) for name, runs in by_target.items() if runs]
