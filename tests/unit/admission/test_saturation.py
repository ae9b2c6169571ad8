"""The two saturation detectors against the reference picker's formulas, and the gate."""

from __future__ import annotations

from random import Random

import msgspec
import numpy as np
import pytest

from epp.admission.gate import Gate
from epp.admission.saturation import (
    PLUGINS,
    ConcurrencyDetector,
    ConcurrencyParameters,
    SaturationDetector,
    UtilizationDetector,
    UtilizationParameters,
)
from epp.datalayer.inflight import Ledger
from epp.domain.errors import Reason, Refused
from epp.domain.snapshot import Snapshot
from epp.scheduling.contract import BuildContext, Cycle, Filter
from tests import builders

NOW = 100.0
ALL = np.arange(3)


def utilization(pool: Snapshot, now: float = NOW, **parameters: float) -> float:
    detector = UtilizationDetector(msgspec.convert(parameters, UtilizationParameters))
    return detector.saturation(pool, np.arange(len(pool)), Ledger(), now)


@pytest.mark.parametrize(
    ("waiting", "kv", "expected"),
    [
        ([0, 0, 0], [0, 0, 0], 0.0),
        ([5, 5, 5], [0, 0, 0], 1.0),
        ([0, 0, 0], [0.8, 0.8, 0.8], 1.0),
        ([10, 0, 0], [0, 0.4, 0], (2.0 + 0.5 + 0) / 3),
        ([1, 0, 0], [0.8, 0, 0], 1 / 3),
    ],
)
def test_utilization_is_the_mean_of_the_fuller_of_queue_and_cache(
    waiting: list[float], kv: list[float], expected: float
) -> None:
    assert utilization(builders.snapshot(3, waiting=waiting, kv_used=kv)) == pytest.approx(expected)


def test_stale_and_missing_metrics_count_as_full() -> None:
    pool = builders.snapshot(4, scraped_at=[NOW, NOW - 0.19, NOW - 0.21, float("-inf")])
    assert utilization(pool) == pytest.approx(0.5)
    slow = builders.snapshot(2, scraped_at=[NOW - 1.0, NOW], stale_after_s=1.5)
    assert utilization(slow) == 0.0


def test_an_empty_pool_is_saturated() -> None:
    assert utilization(builders.snapshot(0)) == 1.0
    concurrency = ConcurrencyDetector(ConcurrencyParameters())
    assert concurrency.saturation(builders.snapshot(0), np.arange(0), Ledger(), NOW) == 1.0


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("requests", (2 + 1) / (3 * 4)), ("tokens", 60 / 300), ("hybrid", (0.5 + 0.25) / 3)],
)
def test_concurrency_counts_our_own_work(mode: str, expected: float) -> None:
    ledger = Ledger()
    ledger.start(0, prefill_tokens=30)
    ledger.start(0, prefill_tokens=10)
    ledger.start(1, prefill_tokens=20)
    given = {"maxConcurrency": 4, "maxTokenConcurrency": 100, "concurrencyMode": mode}
    detector = ConcurrencyDetector(msgspec.convert(given, ConcurrencyParameters))
    assert detector.saturation(builders.snapshot(3), ALL, ledger, NOW) == pytest.approx(expected)


def cycle_of(pool: Snapshot, ledger: Ledger) -> Cycle:
    return Cycle(request=builders.request(), snapshot=pool, now=NOW, rng=Random(0), inflight=ledger)


def test_as_filters() -> None:
    pool = builders.snapshot(3, waiting=[4, 5, 0], kv_used=[0, 0, 0.8])
    utilized = UtilizationDetector(UtilizationParameters())
    assert utilized.keep(cycle_of(pool, Ledger()), ALL).tolist() == [True, False, False]
    full = builders.snapshot(3, waiting=[9, 9, 9])
    assert utilized.keep(cycle_of(full, Ledger()), ALL).all()
    roomy = UtilizationDetector(msgspec.convert({"headroom": 0.5}, UtilizationParameters))
    assert roomy.keep(cycle_of(pool, Ledger()), ALL).tolist() == [True, True, True]
    ledger = Ledger()
    ledger.start(1)
    busy = ConcurrencyDetector(msgspec.convert({"maxConcurrency": 1}, ConcurrencyParameters))
    assert busy.keep(cycle_of(pool, ledger), ALL).tolist() == [True, False, True]


def test_every_row_is_a_detector_and_a_filter() -> None:
    for row in PLUGINS:
        built = row.build(row.parameters(), BuildContext("x", {}.__getitem__))
        assert isinstance(built, SaturationDetector)
        assert isinstance(built, Filter)


@pytest.mark.parametrize(("priority", "waiting", "refused"), [(-1, 5, True), (-1, 4, False), (0, 99, False)])
def test_the_gate_sheds_negative_priorities_of_a_saturated_pool(
    priority: int, waiting: float, refused: bool
) -> None:
    gate = Gate(UtilizationDetector(UtilizationParameters()), Ledger())
    pool = builders.snapshot(3, waiting=[waiting] * 3)
    request = builders.request(priority=priority)
    if not refused:
        gate.admit(request, pool, ALL, NOW)
        return
    with pytest.raises(Refused) as raised:
        gate.admit(request, pool, ALL, NOW)
    assert raised.value.reason is Reason.SHED
    assert raised.value.retry_after_s > 0
