"""What is shown of each pool, under the labels of its name: gauges, saturation, queues, answers, indexes.

Where a metric's labels do not name the pool, it is summed over all of them; counts of pools that went stay in
such sums. Gauges of thousands of pools are read a few at a time, so that others may run between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from epp.domain.endpoint import Endpoint
from epp.telemetry import table
from epp.telemetry.flow import FLOW_CELLS, FlowMetrics, FlowTotals, Saturation
from epp.telemetry.pool import Pool
from epp.telemetry.series import Cell, Histogram, Key, Names
from epp.telemetry.table import TABLE, Metric

AT_ONCE = 8
"""Pools whose gauges are read before others may run: some half a millisecond."""
_POOL_LABELS = frozenset({"name", "inference_pool"})


class AnswersSource(Protocol):
    """Who knows which answers are looked at; cells of the metrics of that name."""

    def answers(self) -> Iterable[Cell]: ...

    def tokens(self) -> Iterable[Cell]: ...

    def modes(self) -> Iterable[Cell]: ...


class Sheet:
    """Gauges of all pools as they were read for one page."""

    def __init__(self) -> None:
        self._cells: dict[str, list[Cell]] = {}
        self._sums: dict[str, dict[Key, float]] = {}

    def add(self, metric: Metric, cells: Iterable[Cell]) -> None:
        if not _POOL_LABELS.isdisjoint(metric.labels):
            self._cells.setdefault(metric.name, []).extend(cells)
            return
        sums = self._sums.setdefault(metric.name, {})
        _add(sums, cells)

    def families(self) -> Iterator[tuple[str, Callable[[], Iterable[Cell]]]]:
        for name, cells in self._cells.items():
            yield name, lambda cells=cells: cells  # type: ignore[misc]
        for name, sums in self._sums.items():
            yield name, lambda sums=sums: sums.items()  # type: ignore[misc]


class Pools:
    """By label. Written by the event loop alone."""

    def __init__(self, models: Names, flows: Names, *, most: int, most_of_a_pool: int) -> None:
        """`most`: label sets of queues, of all pools together."""
        self.pools: dict[str, Pool] = {}
        self.saturations: dict[str, Saturation] = {}
        self.notices: dict[str, int] = {}
        self.totals = FlowTotals(models, flows, most, most_of_a_pool)
        self._flows: dict[str, FlowMetrics] = {}
        self._answers: dict[str, AnswersSource] = {}
        self._indexes: dict[str, dict[Key, Callable[[], float]]] = {}
        self._past: dict[str, dict[Key, float]] = {table.ANSWERS.name: {}, table.ESTIMATED_TOKENS.name: {}}

    def flow(self, pool: str, made: Callable[[], FlowMetrics]) -> FlowMetrics:
        """The pool's; what was counted before goes on."""
        return self._flows.get(pool) or self._flows.setdefault(pool, made())

    def without_flow(self, pool: str) -> None:
        flow = self._flows.pop(pool, None)
        if flow is not None:
            flow.close()

    def watch_answers(self, pool: str, source: AnswersSource) -> None:
        if self._answers.get(pool) is not source:
            self._forget_answers(pool)
            self._answers[pool] = source

    def watch_index(self, pool: str, key: Key, size: Callable[[], float]) -> None:
        self._indexes.setdefault(pool, {})[key] = size

    def without_indexes(self, pool: str) -> None:
        self._indexes.pop(pool, None)

    def remove(self, pool: str) -> None:
        """Nothing of this pool is shown any more."""
        self.pools.pop(pool, None)
        self.saturations.pop(pool, None)
        self.notices.pop(pool, None)
        self.without_flow(pool)
        self.without_indexes(pool)
        self._forget_answers(pool)

    def endpoints(self) -> Iterator[Endpoint]:
        """Of all pools."""
        for pool in self.pools.values():
            yield from pool.source.snapshot.endpoints

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, sheet: Sheet) -> Iterator[None]:
        """Fills the sheet, piece by piece."""
        sources: tuple[Pool | Saturation, ...] = (*self.pools.values(), *self.saturations.values())
        for number, source in enumerate(sources, 1):
            for name, cells in source.read():
                sheet.add(TABLE[name], cells)
            if number % AT_ONCE == 0:
                yield None

    def families(self, sheet: Sheet) -> Iterator[tuple[str, Callable[[], Iterable[Cell | None]]]]:
        yield from sheet.families()
        if self._flows:
            for name, of in FLOW_CELLS.items():
                yield name, lambda of=of: self._of_flows(of)  # type: ignore[misc]
            yield table.DISPATCH_CYCLE.name, lambda: [((), self.totals.cycles)]
            yield table.ENQUEUE_DURATION.name, lambda: tuple(self.totals.enqueued.items())
        yield table.PREFIX_SIZE.name, self._sizes
        if self._answers or self._past[table.ANSWERS.name]:
            yield table.ANSWERS.name, lambda: self._counted(table.ANSWERS, lambda source: source.answers())
            yield (
                table.ESTIMATED_TOKENS.name,
                lambda: self._counted(table.ESTIMATED_TOKENS, lambda source: source.tokens()),
            )
            yield table.OBSERVATION.name, self._modes

    def _of_flows(self, of: Callable[[FlowMetrics], Iterable[Cell]]) -> Iterator[Cell | None]:
        for number, flow in enumerate(tuple(self._flows.values()), 1):
            yield from of(flow)
            if number % (4 * AT_ONCE) == 0:
                yield None

    def _sizes(self) -> Iterator[Cell | None]:
        sums: dict[Key, float] = {}
        for number, indexes in enumerate(tuple(self._indexes.values()), 1):
            _add(sums, [(key, size()) for key, size in indexes.items()])
            if number % (4 * AT_ONCE) == 0:
                yield None
        yield from sums.items()

    def _counted(
        self, metric: Metric, of: Callable[[AnswersSource], Iterable[Cell]]
    ) -> Iterator[Cell | None]:
        sums = dict(self._past[metric.name])
        for number, source in enumerate(tuple(self._answers.values()), 1):
            _add(sums, of(source))
            if number % (4 * AT_ONCE) == 0:
                yield None
        yield from sums.items()

    def _modes(self) -> Iterable[Cell]:
        return {key: value for source in self._answers.values() for key, value in source.modes()}.items()

    def _forget_answers(self, pool: str) -> None:
        source = self._answers.pop(pool, None)
        if source is not None:
            _add(self._past[table.ANSWERS.name], source.answers())
            _add(self._past[table.ESTIMATED_TOKENS.name], source.tokens())


def _add(sums: dict[Key, float], cells: Iterable[Cell]) -> None:
    for key, value in cells:
        assert not isinstance(value, Histogram)
        sums[key] = sums.get(key, 0) + value
