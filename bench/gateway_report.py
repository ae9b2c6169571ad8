"""The gateway benchmark's measurements as tables and as ratios between targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from gateway_cells import Cell, Measured

Ratio = dict[str, float]


def _cells(measured: Sequence[Measured]) -> list[Cell]:
    return list(dict.fromkeys(m.cell for m in measured))


def _targets(measured: Sequence[Measured]) -> list[str]:
    order = ("plain", "responder", "epp")
    return [name for name in order if any(m.target == name for m in measured)]


def _runs(measured: Sequence[Measured], cell: Cell, target: str) -> list[Measured]:
    return [m for m in measured if m.cell == cell and m.target == target]


def spread(values: Sequence[float]) -> Ratio:
    return {"median": median(values), "least": min(values), "most": max(values)}


def ratios(measured: Sequence[Measured]) -> dict[str, dict[str, Ratio]]:
    """By cell: requests/s and picker CPU of epp over the responder, requests/s of each over plain Envoy.

    Each ratio is taken within a turn, where both met the machine in the same state.
    """
    found: dict[str, dict[str, Ratio]] = {}
    names = _targets(measured)
    for cell in _cells(measured):
        row: dict[str, Ratio] = {}
        for one, other in (("epp", "responder"), ("epp", "plain"), ("responder", "plain")):
            if one not in names or other not in names:
                continue
            pairs = list(zip(_runs(measured, cell, one), _runs(measured, cell, other), strict=True))
            if not cell.stream:
                row[f"{one}/{other} per_s"] = spread([a.per_s / max(b.per_s, 1e-9) for a, b in pairs])
            if other == "responder":
                row["epp/responder cpu"] = spread([a.picker_us / max(b.picker_us, 1e-9) for a, b in pairs])
            row[f"{one}/{other} envoy cpu"] = spread([a.envoy_us / max(b.envoy_us, 1e-9) for a, b in pairs])
        found[cell.name] = row
    return found


def tables(measured: Sequence[Measured], idle: Mapping[str, float], about: Mapping[str, object]) -> Group:
    title = Text(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in about.items()), style="dim")
    costs = ", ".join(f"{name} {us / 1000:.1f} ms of CPU a second" for name, us in idle.items())
    notes = Text(f"medians; in brackets least-most; pickers while idle: {costs or 'none'}", style="dim")
    return Group(title, _requests(measured), _streams(measured), _ratio_table(measured), notes)


def _requests(measured: Sequence[Measured]) -> Table | Text:
    loads = [cell for cell in _cells(measured) if not cell.stream]
    if not loads:
        return Text("")
    table = Table(title="requests, closed loop")
    for name in ("load", "gateway"):
        table.add_column(name)
    for name in (
        "requests/s",
        "spread",
        "p50 ms",
        "p99 ms",
        "Envoy us/request",
        "picker us/request",
        "errors",
    ):
        table.add_column(name, justify="right")
    for cell in loads:
        for target in _targets(measured):
            runs = _runs(measured, cell, target)
            rates = spread([m.per_s for m in runs])
            table.add_row(
                cell.name,
                target,
                f"{rates['median']:,.0f}",
                f"{rates['least']:,.0f}-{rates['most']:,.0f}",
                f"{median(m.p50_ms for m in runs):.2f}",
                f"{median(m.p99_ms for m in runs):.2f}",
                f"{median(m.envoy_us for m in runs):,.0f}",
                f"{median(m.picker_us for m in runs):,.0f}" if target != "plain" else "-",
                str(sum(m.errors for m in runs)),
            )
        table.add_section()
    return table


def _streams(measured: Sequence[Measured]) -> Table | Text:
    loads = [cell for cell in _cells(measured) if cell.stream]
    if not loads:
        return Text("")
    table = Table(title="streamed answers, 200 chunks each, paced by the upstream at 20 a second")
    for name in ("streams", "gateway"):
        table.add_column(name)
    for name in ("chunks/s", "Envoy us/chunk", "picker us/chunk", "errors"):
        table.add_column(name, justify="right")
    for cell in loads:
        for target in _targets(measured):
            runs = _runs(measured, cell, target)
            table.add_row(
                str(cell.connections),
                target,
                f"{median(m.per_s for m in runs):,.0f}",
                f"{median(m.envoy_us for m in runs):,.0f}",
                f"{median(m.picker_us for m in runs):,.0f}" if target != "plain" else "-",
                str(sum(m.errors for m in runs)),
            )
        table.add_section()
    return table


def _ratio_table(measured: Sequence[Measured]) -> Table | Text:
    if not {"epp", "responder"} <= set(_targets(measured)):
        return Text("")
    table = Table(title="epp over the logic-free responder (wanted: requests/s >= .80, CPU <= 1.30)")
    table.add_column("load")
    for name in ("requests/s", "picker CPU"):
        table.add_column(name, justify="right")
    for name, row in ratios(measured).items():
        table.add_row(name, _shown(row.get("epp/responder per_s")), _shown(row.get("epp/responder cpu")))
    return table


def _shown(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f})"
