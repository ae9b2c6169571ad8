"""The table of what is wanted and what was reached; each benchmark prints its own lines of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Line:
    """A dash where nothing was measured."""

    what: str
    wanted: str
    native: str
    grpcio: str
    limit: str = "-"
    """What the compiled transport reaches here without Python."""
    known: str = "-"
    """What was known of that limit beforehand."""


def table(lines: Sequence[Line]) -> Table:
    shown = Table(title="wanted and reached: median (least-most)")
    for name in ("", "wanted", "epp, native", "epp, grpcio", "limit in this run", "known limit"):
        shown.add_column(name, justify="left" if name in ("", "known limit") else "right")
    for line in lines:
        shown.add_row(line.what, line.wanted, line.native, line.grpcio, line.limit, line.known)
    return shown
