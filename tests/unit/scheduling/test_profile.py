"""One profile run: order, weights, reasons; and that a broken plugin costs only itself."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from epp.datalayer.inflight import Ledger
from epp.domain.decision import Drop, ProfileRun
from epp.scheduling.contract import Cycle
from epp.scheduling.profile import Named, Probe, Profile
from tests.builders import request, snapshot
from tests.unit.scheduling.plugins_made import BEST, FIRST, Failing, Keeping, Picking, Scoring, Sink, Ticking


def named(name: str, plugin: Any) -> Any:
    return Named(name, f"{name}-type", plugin)


def run(
    *,
    filters: list[Any] | None = None,
    scorers: list[tuple[Any, float]] | None = None,
    picker: Any = BEST,
    n: int = 4,
    rows: list[int] | None = None,
    probe: Probe | None = None,
    drops: tuple[Drop, ...] = (),
) -> ProfileRun:
    profile = Profile(
        "default",
        named("picker", picker),
        tuple(named(f"f{i}", plugin) for i, plugin in enumerate(filters or [])),
        tuple((named(f"s{i}", plugin), weight) for i, (plugin, weight) in enumerate(scorers or [])),
    )
    cycle = Cycle(request=request(), snapshot=snapshot(n), now=0.0, rng=Random(1), inflight=Ledger())
    candidates = np.arange(n)
    asked = candidates if rows is None else np.asarray(rows)
    return profile.run(cycle, candidates, asked, probe or Probe(), drops)


def test_filters_narrow_one_after_another() -> None:
    seen: list[list[int]] = []

    def not_row(row: int) -> Keeping:
        def answer(rows: Any) -> Any:
            seen.append(rows.tolist())
            return rows != row

        return Keeping(answer)

    done = run(filters=[not_row(2), not_row(9), not_row(0)])
    assert seen == [[0, 1, 2, 3], [0, 1, 3], [0, 1, 3]]
    assert [(drop.filter, drop.rows.tolist()) for drop in done.drops] == [("f0", [2]), ("f2", [0])]
    assert done.candidates.tolist() == [0, 1, 2, 3]
    assert done.rows.tolist() == [1, 3]
    assert done.picked == (1,)
    assert done.faults == ()


def test_totals_are_weighted_sums_and_not_normalised() -> None:
    up = Scoring(lambda rows: rows / 4)
    flat = Scoring(lambda rows: np.full(len(rows), 0.5))
    done = run(scorers=[(up, 3.0), (flat, 1.0)])
    assert done.totals.tolist() == [0.5, 1.25, 2.0, 2.75]
    assert [(score.scorer, score.weight, score.values.tolist()) for score in done.scores] == [
        ("s0", 3.0, [0.0, 0.25, 0.5, 0.75]),
        ("s1", 1.0, [0.5, 0.5, 0.5, 0.5]),
    ]
    assert done.picked == (3,)
    assert done.picker == "picker"


def test_without_scorers_all_totals_are_zero() -> None:
    assert run(picker=FIRST).totals.tolist() == [0.0] * 4


def test_drops_from_before_are_kept_first() -> None:
    done = run(
        rows=[1, 2], drops=(Drop("unavailable", np.asarray([0, 3])),), filters=[Keeping(lambda r: r == 2)]
    )
    assert [drop.filter for drop in done.drops] == ["unavailable", "f0"]
    assert done.rows.tolist() == [2]


def test_none_left_ends_the_run() -> None:
    later: list[int] = []
    done = run(
        filters=[Keeping(lambda rows: rows < 0), Keeping(lambda rows: later.append(1) or rows >= 0)],
        scorers=[(Scoring(lambda rows: later.append(2)), 1.0)],
    )
    assert done.picked == ()
    assert done.rows.tolist() == []
    assert done.drops[-1].filter == "f0"
    assert later == []


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (lambda rows: np.ones(1, dtype=bool), "shape"),
        (lambda rows: np.ones(len(rows)), "float64"),
        (lambda rows: rows, "int64"),
        (lambda rows: [True, False], "shape"),
        (lambda rows: None, "object"),
        (lambda rows: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_broken_filter_keeps_all(answer: Any, what: str) -> None:
    sink = Sink()
    done = run(filters=[Keeping(answer), Keeping(lambda rows: rows != 1)], probe=Probe(None, sink))
    assert done.rows.tolist() == [0, 2, 3]
    [(plugin, told)] = done.faults
    assert plugin == "f0"
    assert what in told
    assert [(point, type_name, name) for point, type_name, name, _ in sink.faults] == [
        ("Filter", "f0-type", "f0")
    ]


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: np.ones(1),
        lambda rows: np.ones((len(rows), 1)),
        lambda rows: 0.5,
        lambda rows: None,
        lambda rows: ["high"] * len(rows),
        lambda rows: {}["missing"],
    ],
)
def test_a_broken_scorer_is_left_out(answer: Any) -> None:
    sink = Sink()
    good = Scoring(lambda rows: rows / 4)
    done = run(scorers=[(Scoring(answer), 100.0), (good, 1.0)], probe=Probe(None, sink))
    assert done.totals.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert [score.scorer for score in done.scores] == ["s1"]
    assert [plugin for plugin, _ in done.faults] == ["s0"]
    assert [name for _, _, name, _ in sink.faults] == ["s0"]


@pytest.mark.parametrize(
    ("values", "used"),
    [
        ([2.0, 0.5, -1.0, 1.0], [1.0, 0.5, 0.0, 1.0]),
        ([np.nan, 0.5, 0.25, 1.0], [0.0, 0.5, 0.25, 1.0]),
        ([np.inf, -np.inf, np.nan, 0.5], [1.0, 0.0, 0.0, 0.5]),
    ],
)
def test_scores_outside_are_clamped_and_named(values: list[float], used: list[float]) -> None:
    given = np.asarray(values)
    done = run(scorers=[(Scoring(lambda rows: given), 1.0)])
    assert done.scores[0].values.tolist() == used
    assert done.totals.tolist() == used
    assert [plugin for plugin, _ in done.faults] == ["s0"]
    assert np.array_equal(given, np.asarray(values), equal_nan=True), "the plugin's array is its own"


def test_whole_numbers_are_scores_too() -> None:
    assert run(scorers=[(Scoring(lambda rows: [0, 1, 0, 1]), 1.0)]).faults == ()


@pytest.mark.parametrize(
    "answer",
    [lambda rows, totals: (), lambda rows, totals: (17,), lambda rows, totals: (1, 9), lambda *_: 1 / 0],
)
def test_a_broken_picker_is_replaced_by_the_best_total(answer: Any) -> None:
    sink = Sink()
    up = Scoring(lambda rows: rows / 4)
    done = run(scorers=[(up, 1.0)], picker=Picking(answer), probe=Probe(None, sink))
    assert done.picked == (3,)
    assert [plugin for plugin, _ in done.faults] == ["picker"]
    assert [point for point, *_ in sink.faults] == ["Picker"]


def test_a_pick_of_what_was_filtered_out_is_a_fault() -> None:
    done = run(filters=[Keeping(lambda rows: rows != 0)], picker=Picking(lambda rows, totals: (0,)))
    assert done.picked == (1,)
    assert done.faults


def test_everything_broken_still_picks() -> None:
    broken = Failing()
    done = run(filters=[broken], scorers=[(broken, 1.0)], picker=broken)
    assert done.picked == (0,)
    assert [plugin for plugin, _ in done.faults] == ["f0", "s0", "picker"]


def test_each_plugin_is_timed_once_with_one_look_at_the_clock_each() -> None:
    sink, clock = Sink(), Ticking()
    run(
        filters=[Keeping(lambda rows: rows >= 0)],
        scorers=[(Scoring(lambda rows: rows / 4), 1.0), (Failing(), 1.0)],
        probe=Probe(clock, sink),
    )
    assert sink.timings == [
        ("Filter", "f0-type", "f0", 1.0),
        ("Scorer", "s0-type", "s0", 1.0),
        ("Scorer", "s1-type", "s1", 1.0),
        ("Picker", "picker-type", "picker", 1.0),
    ]
    assert clock.now == 5.0
