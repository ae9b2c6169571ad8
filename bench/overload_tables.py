"""The tables that bench/overload.py prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from overload_figures import Figures, lost
from overload_scene import BANDS, FLOODER
from overload_settings import OURS
from rich import box
from rich.table import Table

WANTED_AT = 2.0
CALM_AT = 0.5


@dataclass(frozen=True, slots=True)
class Line:
    what: str
    wanted: str
    reached: str
    kept: bool


def seconds(value: float) -> str:
    return "-" if value == inf else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def bands_table(done: Sequence[Figures]) -> Table:
    table = Table(title="by band; goodput in % of capacity, TTFT from the first attempt", box=box.SIMPLE)
    for name in ("load", "admission", "band"):
        table.add_column(name, no_wrap=True)
    for name in ("offered", "goodput", "in SLO", "p50 s", "p99 s", "first 30 s: p99", "429s", "given up"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Retry-After s", justify="right", no_wrap=True)
    for one in done:
        for i, (name, band) in enumerate(one.bands.items()):
            least, median, most = band.retry_after_s
            table.add_row(
                f"x{one.load:g}" if not i else "", one.admission if not i else "", name,
                f"{band.offered:.0%}", f"{band.goodput:.0%}", f"{band.slo_goodput:.0%}",
                seconds(band.ttft_p50_s), seconds(band.ttft_p99_s), seconds(band.onset_p99_s),
                f"{band.refusals}", f"{band.unanswered:.0%}",
                f"{least:.0f} / {median:.0f} / {most:.0f}" if band.refusals else "-",
            )  # fmt: skip
        table.add_section()
    return table


def tenants_table(done: Sequence[Figures]) -> Table:
    table = Table(title="goodput in % of capacity, all bands", box=box.SIMPLE)
    for name in ("load", "admission"):
        table.add_column(name, no_wrap=True)
    for name in ("all", "all, in SLO", "flooder, in SLO", "each of the others, in SLO", "most lost", "Jain"):
        table.add_column(name, justify="right", no_wrap=True)
    calm = {one.admission: one for one in done if one.load == CALM_AT}
    for one in done:
        others = [share for i, share in enumerate(one.tenants) if i != FLOODER]
        before = calm.get(one.admission)
        table.add_row(
            f"x{one.load:g}", one.admission, f"{one.goodput:.1%}", f"{one.slo_goodput:.1%}",
            f"{one.tenants[FLOODER]:.1%}", f"{min(others):.1%} - {max(others):.1%}",
            f"{lost(before, one):.1%}" if before else "-",
            f"{one.jain:.3f}" if one.slo_goodput > 0.005 else "-",
        )  # fmt: skip
    return table


def reached(done: Sequence[Figures]) -> list[Line]:
    """Of flow control; empty unless both loads were played."""
    ours = {one.load: one for one in done if one.admission == OURS}
    calm, full = ours.get(CALM_AT), ours.get(WANTED_AT)
    if calm is None or full is None:
        return []
    top = BANDS[0].name
    slower = full.bands[top].ttft_p99_s / calm.bands[top].ttft_p99_s
    loss, inversions = lost(calm, full), sum(one.inversions for one in ours.values())
    return [
        Line(
            f"p99 TTFT of the top band at x{WANTED_AT:g} against x{CALM_AT:g}", "at most 1.5",
            f"{slower:.2f}", slower <= 1.5,
        ),
        Line(
            f"goodput that a tenant below its fair share loses at x{WANTED_AT:g}", "at most 5 %",
            f"{loss:.1%}", loss <= 0.05,
        ),
        Line(
            f"token goodput at x{WANTED_AT:g} against saturation", "at least 97 %",
            f"{full.goodput:.1%}", full.goodput >= 0.97,
        ),
        Line(
            "top-band refusals while a lower band was served, all loads", "0", f"{inversions}", not inversions
        ),
    ]  # fmt: skip


def wanted_table(lines: Sequence[Line]) -> Table:
    table = Table(title="flow control: wanted and reached", box=box.SIMPLE)
    for name in ("", "wanted", "reached"):
        table.add_column(name, justify="left" if not name else "right")
    for line in lines:
        table.add_row(line.what, line.wanted, f"[{'green' if line.kept else 'red'}]{line.reached}[/]")
    return table
