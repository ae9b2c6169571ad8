"""One run of one profile: filters in order, then scorers, then the picker. A broken one costs only itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from epp.domain.decision import Drop, ProfileRun, Score
from epp.domain.snapshot import Bools, Floats, Ints
from epp.domain.views import Clock
from epp.scheduling.columns import greatest, least
from epp.scheduling.contract import Cycle, Filter, Picker, PluginSink, Scorer

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Named(Generic[T_co]):
    """A plugin with its instance name and its type name."""

    name: str
    type_name: str
    plugin: T_co


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Reports to the sink; without a sink plugins are not timed at all."""

    clock: Clock | None = None
    sink: PluginSink | None = None

    @property
    def timing(self) -> bool:
        """Whether `start` and `lap` do anything; those who call often ask first."""
        return self.clock is not None

    def start(self) -> float:
        return self.clock() if self.clock is not None else 0.0

    def lap(self, since: float, extension_point: str, step: Named[object]) -> float:
        """Report the time since `since` for this plugin; the start of the next one."""
        if self.clock is None or self.sink is None:
            return since
        now = self.clock()
        self.sink.timed(extension_point, step.type_name, step.name, now - since)
        return now

    def fault(self, extension_point: str, step: Named[object], what: str) -> None:
        if self.sink is not None:
            self.sink.fault(extension_point, step.type_name, step.name, what)


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Filters, weighted scorers and a picker under one name."""

    name: str
    picker: Named[Picker]
    filters: tuple[Named[Filter], ...] = ()
    scorers: tuple[tuple[Named[Scorer], float], ...] = ()
    """With weights; totals are weighted sums that are not divided by the sum of weights."""

    def run(
        self,
        cycle: Cycle,
        candidates: Ints,
        rows: Ints,
        probe: Probe,
        drops: tuple[Drop, ...] = (),
    ) -> ProfileRun:
        """Run on `rows`, what `drops` left of `candidates`. `picked` is empty when the filters leave none."""
        faults: list[tuple[str, str]] = []
        dropped = drops
        timing = probe.timing
        at = probe.start() if timing else 0.0
        for step in self.filters:
            if not len(rows):
                break
            kept = self._filter(step, cycle, rows, probe, faults)
            if kept is not None and not kept.all():
                dropped = (*dropped, Drop(step.name, rows[~kept]))
                rows = rows[kept]
            if timing:
                at = probe.lap(at, "Filter", step)
        if not len(rows):
            return ProfileRun(
                profile=self.name, candidates=candidates, drops=dropped, rows=rows, scores=(),
                totals=np.zeros(0), picked=(), picker=self.picker.name, faults=tuple(faults),
            )  # fmt: skip
        scores: list[Score] = []
        totals: Floats | None = None
        for scorer, weight in self.scorers:
            values = self._score(scorer, cycle, rows, probe, faults)
            if values is not None:
                scores.append(Score(scorer.name, weight, values))
                weighted = values if weight == 1.0 else values * weight
                # Not added in place: the first total may be a scorer's own array, which stays a reason.
                totals = weighted if totals is None else totals + weighted
            if timing:
                at = probe.lap(at, "Scorer", scorer)
        if totals is None:
            totals = np.zeros(len(rows))
        picked = self._pick(cycle, rows, totals, probe, faults)
        if timing:
            probe.lap(at, "Picker", self.picker)
        return ProfileRun(
            profile=self.name, candidates=candidates, drops=dropped, rows=rows, scores=tuple(scores),
            totals=totals, picked=picked, picker=self.picker.name, faults=tuple(faults),
        )  # fmt: skip

    def _filter(
        self, step: Named[Filter], cycle: Cycle, rows: Ints, probe: Probe, faults: list[tuple[str, str]]
    ) -> Bools | None:
        """The filter's answer, or None when it is broken: then it keeps all."""
        try:
            kept = np.asarray(step.plugin.keep(cycle, rows))
            if kept.shape == rows.shape and kept.dtype == np.bool_:
                return kept
            what = f"answered {kept.dtype} of shape {kept.shape} for {len(rows)} endpoints, wants bool"
        except Exception as error:  # third-party code: any error costs its own answer only
            what = describe(error)
        faults.append((step.name, what))
        probe.fault("Filter", step, what)
        return None

    def _score(
        self, step: Named[Scorer], cycle: Cycle, rows: Ints, probe: Probe, faults: list[tuple[str, str]]
    ) -> Floats | None:
        """The scorer's answer in [0, 1], or None when it cannot be used at all."""
        values: Floats | None = None
        try:
            answer = np.asarray(step.plugin.score(cycle, rows), dtype=np.float64)
            if answer.shape != rows.shape:
                what = f"answered shape {answer.shape} for {len(rows)} endpoints"
            elif least(answer) >= 0.0 and greatest(answer) <= 1.0:
                return answer
            else:  # out of range, or NaN, for which both comparisons are false
                wrong = ~((answer >= 0.0) & (answer <= 1.0))
                what = f"{int(wrong.sum())} of {len(rows)} scores outside [0, 1]"
                values = np.clip(np.nan_to_num(answer, nan=0.0), 0.0, 1.0)
        except Exception as error:  # as above
            what = describe(error)
        faults.append((step.name, what))
        probe.fault("Scorer", step, what)
        return values

    def _pick(
        self, cycle: Cycle, rows: Ints, totals: Floats, probe: Probe, faults: list[tuple[str, str]]
    ) -> tuple[int, ...]:
        """The picker's answer; the best total when it is broken."""
        try:
            picked = tuple(map(int, self.picker.plugin.pick(cycle, rows, totals)))
            if rows is cycle.snapshot.every:
                wrong = not picked or min(picked) < 0 or max(picked) >= len(rows)
            else:
                wrong = not picked or not all(np.count_nonzero(rows == row) for row in picked)
            if not wrong:
                return picked
            what = f"picked {picked[:8]}, which are not all candidates" if picked else "picked none"
        except Exception as error:  # as above
            what = describe(error)
        faults.append((self.picker.name, what))
        probe.fault("Picker", self.picker, what)
        return (int(rows[totals.argmax(0)]),)


def describe(error: Exception) -> str:
    """One line about an exception of a plugin."""
    return f"{type(error).__name__}: {error}"[:200]
