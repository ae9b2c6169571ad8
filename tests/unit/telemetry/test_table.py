"""The table of metrics: consistent in itself, and as the documentation has it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from epp.telemetry.table import REQUEST_SIZE, TABLE, TPOT, TTFT, Kind, Metric

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"
ROWS = {
    cells[1].strip("` "): [cell.strip() for cell in cells[2:-1]]
    for cells in (line.split("|") for line in DOCUMENT.read_text().splitlines())
    if len(cells) == 8
}


def test_no_name_is_used_twice() -> None:
    names = [metric.name for metric in TABLE.values()]
    names += [twin.name for metric in TABLE.values() for twin in metric.twins]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("metric", TABLE.values(), ids=TABLE)
def test_a_row_is_consistent(metric: Metric) -> None:
    assert metric.name.startswith(("llm_d_epp_", "epp_"))
    assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
    assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM)
    assert metric.help.endswith(".")
    for twin in metric.twins:
        assert set(twin.labels) <= set(metric.labels)
        assert {old for old, _ in twin.renamed} <= set(twin.labels)
    for bounds in (metric.buckets, metric.bounds, *(twin.buckets for twin in metric.twins)):
        assert all(low < high for low, high in pairwise(bounds))
        assert set(bounds) <= set(metric.bounds)


@pytest.mark.parametrize("metric", TABLE.values(), ids=TABLE)
def test_the_documentation_has_the_row_as_it_is(metric: Metric) -> None:
    kind, labels, _, twins, help_ = ROWS[metric.name]
    assert kind == metric.kind.value
    assert labels == (", ".join(f"`{label}`" for label in metric.labels) or "-")
    assert help_ == metric.help
    for twin in metric.twins:
        assert f"`{twin.name}`" in twins


def test_the_documentation_has_no_row_more() -> None:
    assert {name for name in ROWS if "epp_" in name} == set(TABLE)


def test_some_bounds_are_the_references() -> None:
    assert (len(REQUEST_SIZE.buckets), REQUEST_SIZE.buckets[0], REQUEST_SIZE.buckets[-1]) == (25, 64, 2**30)
    assert (len(TTFT.buckets), TTFT.buckets[-1], TTFT.twins[0].buckets[-1]) == (24, 120, 3600)
    assert (len(TPOT.buckets), TPOT.buckets[-1], TPOT.twins[0].buckets[-1]) == (19, 2, 360)
    assert 1.5 in TPOT.bounds
