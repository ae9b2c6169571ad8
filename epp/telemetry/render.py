"""Cells -> Prometheus text, piece by piece, so that a big scrape never holds the event loop for long.

Formats: Prometheus text 0.0.4 and OpenMetrics 1.0. Each metric is written under its name and again under
every deprecated twin, summed over the labels that the twin lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from types import MappingProxyType

from prometheus_client.utils import floatToGoString

from epp.telemetry.series import Cell, Histogram, Key
from epp.telemetry.table import TABLE, Kind, Metric

PIECE_LINES = 250
"""About half a millisecond of work, so that a request never waits long behind a scrape."""
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
EOF = "# EOF\n"

_ESCAPES = {ord("\\"): "\\\\", ord("\n"): "\\n", ord('"'): '\\"'}
_HELP_ESCAPES = {ord("\\"): "\\\\", ord("\n"): "\\n"}


def go_float(value: float) -> str:
    """A bound as Go's client writes it (`1`, `0.005`, `1.048576e+06`), so that series go on."""
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text.removesuffix(".0")


def escaped(label: str) -> str:
    """A label's value between its quotes; nearly always the very same string."""
    if '"' in label or "\\" in label or "\n" in label:
        return label.translate(_ESCAPES)
    return label


class View:
    """One name under which a metric is written."""

    def __init__(
        self,
        metric: Metric,
        name: str,
        labels: tuple[str, ...],
        shown: tuple[str, ...],
        help_: str,
        buckets: tuple[float, ...],
    ) -> None:
        self.name = name
        self.kind = metric.kind
        self.help = help_
        self._picked = tuple(metric.labels.index(label) for label in labels)
        self._whole = self._picked == tuple(range(len(metric.labels)))
        self._heads = tuple(f'{"," if i else ""}{label}="' for i, label in enumerate(shown))
        self._bounds = tuple((metric.bounds.index(bound), f'le="{go_float(bound)}"}} ') for bound in buckets)

    def header(self, openmetrics: bool) -> str:
        family = self.name
        if openmetrics and self.kind is Kind.COUNTER:
            family = family.removesuffix("_total")
        return f"# HELP {family} {self.help}\n# TYPE {family} {self.kind.value}\n"

    def merged(self, cells: Iterable[Cell | None]) -> Iterator[Cell | None]:
        """Cells by this view's labels; those that differ only in labels that it lacks are summed.

        None now and then, while it sums, and where the cells have one: a good moment to let others run.
        """
        if self._whole:
            yield from cells
            return
        sums: dict[Key, float] = {}
        histograms: dict[Key, Histogram] = {}
        for seen, cell in enumerate(cells, 1):
            if cell is None:
                yield None
                continue
            key, value = cell
            short = tuple(key[i] for i in self._picked)
            if isinstance(value, Histogram):
                if short not in histograms:
                    histograms[short] = Histogram(value.bounds)
                histograms[short].add(value)
            else:
                sums[short] = sums.get(short, 0) + value
            if seen % PIECE_LINES == 0:
                yield None
        yield from sums.items()
        yield from histograms.items()

    def lines(self, key: Key, value: float | Histogram) -> list[str]:
        body = "".join(f'{head}{escaped(label)}"' for head, label in zip(self._heads, key, strict=True))
        if not isinstance(value, Histogram):
            return [f"{self.name}{{{body}}} {value!r}\n" if body else f"{self.name} {value!r}\n"]
        below = list(accumulate(value.counts))
        head = f"{self.name}_bucket{{{body}," if body else f"{self.name}_bucket{{"
        lines = [f"{head}{tail}{below[i]}\n" for i, tail in self._bounds]
        braces = f"{{{body}}}" if body else ""
        lines.append(f'{head}le="+Inf"}} {below[-1]}\n')
        lines.append(f"{self.name}_sum{braces} {value.total!r}\n{self.name}_count{braces} {below[-1]}\n")
        return lines


def _views(metric: Metric) -> tuple[View, ...]:
    help_ = metric.help.translate(_HELP_ESCAPES)
    own = View(metric, metric.name, metric.labels, metric.labels, f"[ALPHA] {help_}", metric.buckets)
    twins = (
        View(
            metric,
            twin.name,
            twin.labels,
            tuple(dict(twin.renamed).get(label, label) for label in twin.labels),
            f"[ALPHA] [Deprecated: Use {metric.name}] {help_}",
            twin.buckets or metric.buckets,
        )
        for twin in metric.twins
    )
    return (own, *twins)


VIEWS: MappingProxyType[str, tuple[View, ...]] = MappingProxyType(
    {name: _views(metric) for name, metric in TABLE.items()}
)


def render(
    families: Iterable[tuple[str, Callable[[], Iterable[Cell | None]]]], openmetrics: bool
) -> Iterator[str]:
    """Pieces of about PIECE_LINES lines, some empty. `families`: (metric name, cells now). No EOF mark.

    What `cells` gives must bear that others count while we are suspended between two pieces. One cell is
    never split, so a histogram is always consistent in itself.
    """
    piece: list[str] = []
    for name, cells in families:
        for view in VIEWS[name]:
            begun = False
            for cell in view.merged(cells()):
                if cell is not None:
                    if not begun:
                        piece.append(view.header(openmetrics))
                        begun = True
                    piece += view.lines(*cell)
                if cell is None or len(piece) >= PIECE_LINES:
                    yield "".join(piece)
                    piece = []
    yield "".join(piece)
