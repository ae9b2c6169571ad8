"""What the gateway benchmark is wanted to show, as ratios within one turn of a run.

`c` is the compiled transport without any Python (`bench/canned.py`): what is there to be reached at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TypeAlias

from gateway_cells import ALONE, BUSY, GATHERED, LONG, MEDIUM, NOT_SEEN, SEEN, SMALL, Cell, Measured
from wanted_table import Line

Turn: TypeAlias = Mapping[str, Measured]
"""By target: all that met the machine in the same state."""


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of a target to what it is compared with, in one turn."""

    of: Callable[[Turn, str], float]
    needs: tuple[str, ...] = ()
    """Other targets that it takes."""
    unit: str = ""

    def spread(self, turns: Sequence[Turn], name: str) -> Spread | None:
        values = [self.of(turn, name) for turn in turns if {name, *self.needs} <= turn.keys()]
        return Spread(median(values), min(values), max(values)) if values else None

    def shown(self, spread: Spread | None) -> str:
        if spread is None:
            return "-"
        return f"{spread.median:.2f} ({spread.least:.2f}-{spread.most:.2f}){self.unit}"


def _per_s(over: str) -> Ratio:
    words = " of plain" if over == "plain" else ""
    return Ratio(lambda turn, name: turn[name].per_s / max(turn[over].per_s, 1e-9), (over,), words)


def _cpu(over: str) -> Ratio:
    return Ratio(lambda turn, name: turn[name].picker_us / max(turn[over].picker_us, 1e-9), (over,))


def _added_ms(turn: Turn, name: str) -> float:
    return turn[name].p50_ms - turn["plain"].p50_ms


OVER_C = _per_s("canned")
OVER_PLAIN = _per_s("plain")
CPU = _cpu("responder")
ADDED = Ratio(
    lambda turn, name: _added_ms(turn, name) / max(_added_ms(turn, "canned"), 1e-3), ("plain", "canned")
)
ADDED_MS = Ratio(_added_ms, ("plain",), " ms")
CHUNK_US = Ratio(lambda turn, name: turn[name].picker_us, unit=" us")
ENVOY = Ratio(lambda turn, name: turn[name].envoy_us / max(turn["plain"].envoy_us, 1e-9), ("plain",))
NOTHING_US = 3
"""Of CPU a chunk is nothing: so much more do scrapes cost where Envoy is busy than where all is idle."""


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    wanted: str
    cell: Cell
    ratio: Ratio
    limit: Ratio
    """The same of the canned transport, or what it reaches of plain Envoy."""
    known: str


ROWS = (
    Row("requests/s of c's, 0.1 KB", ">= .90", SMALL, OVER_C, OVER_PLAIN, "c = .68-.86 of plain"),
    Row("requests/s of c's, 32 KB duplex", ">= .85", MEDIUM, OVER_C, OVER_PLAIN, "c = .61-.67 of plain"),
    Row("requests/s of c's, 400 KB duplex", ">= .85", LONG, OVER_C, OVER_PLAIN, "c = .31-.35 of plain"),
    Row("requests/s of c's, 400 KB buffered", ">= .85", GATHERED, OVER_C, OVER_PLAIN, "c = .40 of plain"),
    Row("picker CPU of grpc.aio's, 0.1 KB, 64 connections", "<= 1/10", BUSY, CPU, CPU, "1/40"),
    Row("picker CPU of grpc.aio's, 32 KB", "<= 1/6", MEDIUM, CPU, CPU, "1/14"),
    Row("picker CPU of grpc.aio's, 400 KB", "<= 2/5", LONG, CPU, CPU, "1/4"),
    Row("p50 added at 1 connection, of what c adds", "<= 1.3", ALONE, ADDED, ADDED_MS, "-"),
    Row("picker CPU of grpc.aio's, a chunk observed", "<= 1/12", SEEN, CPU, CPU, "1/20"),
    Row("picker CPU, a chunk not observed", f"0 (< {NOTHING_US} us)", NOT_SEEN, CHUNK_US, CHUNK_US, "0"),
    Row("Envoy CPU of plain's, a chunk not observed", "<= 1.3", NOT_SEEN, ENVOY, ENVOY, "-"),
)


@dataclass(frozen=True, slots=True)
class Reached:
    """One row in one run; None for what was not measured."""

    row: Row
    native: Spread | None
    grpcio: Spread | None
    limit: Spread | None

    def line(self) -> Line:
        row = self.row
        native, grpcio = row.ratio.shown(self.native), row.ratio.shown(self.grpcio)
        return Line(row.what, row.wanted, native, grpcio, row.limit.shown(self.limit), row.known)

    def plain(self) -> dict[str, object]:
        found = {"native": self.native, "grpcio": self.grpcio, "limit": self.limit}
        spreads = {name: asdict(spread) for name, spread in found.items() if spread}
        return {"what": self.row.what, "wanted": self.row.wanted, "cell": self.row.cell.name, **spreads}


def reached(measured: Sequence[Measured]) -> list[Reached]:
    """The rows for which there is something."""
    turns: dict[tuple[Cell, int], dict[str, Measured]] = {}
    for m in measured:
        turns.setdefault((m.cell, m.turn), {})[m.target] = m
    found = []
    for row in ROWS:
        mine = [turn for (cell, _), turn in turns.items() if cell == row.cell]
        spreads = (row.ratio.spread(mine, "epp"), row.ratio.spread(mine, "grpcio"))
        found.append(Reached(row, *spreads, row.limit.spread(mine, "canned")))
    return [r for r in found if r.native or r.grpcio or r.limit]
