"""Whose line is believed, and that lines and cells do not grow without end."""

from __future__ import annotations

import pytest

from epp.datalayer.observation import timings
from epp.datalayer.observation.timings import Timings


def test_constants_then_everything_then_the_model_then_the_endpoint() -> None:
    known = Timings(base_s=0.1, prefill_rate=1000.0)
    here, elsewhere, other = known.cell(1, "m"), known.cell(2, "m"), known.cell(2, "n")
    assert known.delay(here, 1000, 0.0) == pytest.approx(1.1)
    for _ in range(4):
        known.saw(other, 1000, 3.0, 0.0)
    assert known.delay(here, 1000, 0.0) == pytest.approx(3.0, rel=0.01)
    for _ in range(6):
        known.saw(elsewhere, 1000, 2.0, 0.0)
    assert known.delay(here, 1000, 0.0) == pytest.approx(2.0, rel=0.01)
    for _ in range(6):
        known.saw(here, 1000, 0.5, 0.0)
    assert known.delay(here, 1000, 0.0) == pytest.approx(0.5, rel=0.01)
    assert known.delay(other, 1000, 0.0) == pytest.approx(3.0, rel=0.01)


def test_engines_counts_hold_where_no_answer_is_looked_at() -> None:
    known = Timings()
    cell, idle = known.cell(1, "m"), known.cell(2, "m")
    known.counts(1, 10, 5.0, 0.0)
    for _ in range(50):
        cell.told.sent(4000)
    known.counts(1, 60, 5.0 + 50 * 0.8, 1.0)
    assert known.delay(cell, 4000, 1.0) == pytest.approx(0.8)
    assert known.delay(cell, 8000, 1.0) == pytest.approx(1.55)
    assert known.delay(idle, 4000, 1.0) == pytest.approx(0.8), "an endpoint without counts has everybody's"
    for _ in range(5):
        known.saw(cell, 4000, 0.3, 2.0)
    assert known.delay(cell, 4000, 2.0) == pytest.approx(0.3, rel=0.01), "what was seen goes before"
    assert known.delay(cell, 4000, 500.0) == pytest.approx(0.8), "as long as it is fresh"


def test_a_slot_that_is_given_to_another_endpoint_knows_nothing() -> None:
    known = Timings()
    for _ in range(6):
        known.saw(known.cell(1, "m"), 1000, 9.0, 0.0)
    known.forget(1)
    assert known.cell(1, "m").line.samples == 0
    assert len(known) == 1


def test_made_up_model_names_find_an_end() -> None:
    known = Timings()
    cells = [known.cell(3, f"m{i}") for i in range(1000)]
    assert len(known) == 64
    assert known.cell(3, "m999") is cells[-1]
    for slot in range(timings.CELLS):
        known.cell(slot, "m")
    assert len(known) == timings.CELLS
    assert known.cell(timings.CELLS + 5, "m") is known.cell(timings.CELLS + 6, "n")
    for i in range(3000):
        known.saw(known.cell(3, f"n{i}"), 1000, 0.1, 0.0)
    assert known.delay(known.cell(3, "n2999"), 1000, 0.0) == pytest.approx(0.1, rel=0.05)
