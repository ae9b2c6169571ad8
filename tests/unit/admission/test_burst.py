"""The detector that sees what we sent since the last scrape."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from epp.admission.burst import PLUGINS, BurstDetector, BurstParameters
from epp.admission.saturation import (
    ConcurrencyDetector,
    ConcurrencyParameters,
    RoomGiver,
    SaturationDetector,
    UtilizationDetector,
    UtilizationParameters,
    room_of,
)
from epp.datalayer.inflight import Ledger
from epp.domain.snapshot import Ints, Snapshot
from epp.domain.views import InflightView
from epp.scheduling.contract import BuildContext, Cycle, Filter
from tests import builders

NOW = 100.0
BOTH = np.arange(2)


def detector(**given: Any) -> BurstDetector:
    return BurstDetector(msgspec.convert(given, BurstParameters))


def test_without_a_burst_it_agrees_with_the_utilization_detector() -> None:
    rng = Random(2)
    for _ in range(50):
        pool = builders.snapshot(
            3,
            waiting=[rng.randint(0, 9) for _ in range(3)],
            running=[rng.randint(0, 9) for _ in range(3)],
            kv_used=[rng.random() for _ in range(3)],
            scraped_at=[NOW - rng.choice([0.0, 0.1, 0.3]) for _ in range(3)],
        )
        plain = UtilizationDetector(UtilizationParameters())
        expected = plain.saturation(pool, np.arange(3), Ledger(), NOW)
        assert detector().saturation(pool, np.arange(3), Ledger(), NOW) == pytest.approx(expected)


def test_a_burst_counts_beyond_what_the_batch_has_room_for() -> None:
    sees, ledger, pool = detector(assumedBatch=4), Ledger(), builders.snapshot(2)
    sees.see(pool, ledger)
    for _ in range(4):
        ledger.start(0)
    assert sees.saturation(pool, BOTH, ledger, NOW) == 0.0
    entries = [ledger.start(0) for _ in range(5)]
    assert sees.saturation(pool, BOTH, ledger, NOW) == pytest.approx(0.5)
    entries[0].end()
    assert sees.saturation(pool, BOTH, ledger, NOW) == pytest.approx(0.4)


def test_what_the_next_scrape_shows_is_not_counted_twice() -> None:
    sees, ledger, pool = detector(assumedBatch=0), Ledger(), builders.snapshot(2)
    sees.see(pool, ledger)
    for _ in range(3):
        ledger.start(1)
    assert sees.saturation(pool, BOTH, ledger, NOW) == pytest.approx(0.3)
    scraped = builders.snapshot(2, at=NOW + 0.1, running=[0, 3])
    assert sees.saturation(scraped, BOTH, ledger, NOW + 0.1) == 0.0
    # It ran three, so there is room for three again once these are gone.
    idle = builders.snapshot(2, at=NOW + 0.2)
    ledger.forget(1)
    sees.see(idle, ledger)
    for _ in range(3):
        ledger.start(1)
    assert sees.saturation(idle, BOTH, ledger, NOW + 0.2) == 0.0


def test_what_ends_is_seen_before_the_next_scrape() -> None:
    sees, ledger = detector(), Ledger()
    entries = [ledger.start(0) for _ in range(30)]
    pool = builders.snapshot(1, waiting=[5], running=[25])
    assert sees.saturation(pool, np.arange(1), ledger, NOW) == 1.0
    entries[0].end()
    assert sees.saturation(pool, np.arange(1), ledger, NOW) == pytest.approx(0.8)
    for entry in entries[:8]:
        entry.end()
    assert sees.saturation(pool, np.arange(1), ledger, NOW) == 0.0


def test_prompts_fill_the_cache_before_it_is_scraped() -> None:
    sees, ledger = detector(), Ledger()
    pool = builders.snapshot(2, block_size=[16, 0], num_blocks=[100, 0], kv_used=[0.4, 0.4])
    sees.see(pool, ledger)
    ledger.start(0, prefill_tokens=640)
    ledger.start(1, prefill_tokens=640)
    assert sees.saturation(pool, BOTH, ledger, NOW) == pytest.approx((1.0 + 0.5) / 2)


def test_a_slot_given_to_another_endpoint_starts_anew() -> None:
    sees, ledger = detector(assumedBatch=1), Ledger()
    sees.see(builders.snapshot(1, running=[50]), ledger)
    sees.forget(0)
    sees.forget(999)
    fresh = builders.snapshot(1)
    sees.see(fresh, ledger)
    for _ in range(6):
        ledger.start(0)
    assert sees.saturation(fresh, np.arange(1), ledger, NOW) == 1.0


def test_stale_metrics_and_an_empty_pool_are_full() -> None:
    assert detector().saturation(builders.snapshot(0), np.arange(0), Ledger(), NOW) == 1.0
    assert detector().room(builders.snapshot(0), np.arange(0), Ledger(), NOW).saturation() == 1.0
    old = builders.snapshot(2, scraped_at=[NOW, NOW - 5.0])
    assert detector().saturation(old, BOTH, Ledger(), NOW) == 0.5


def test_as_a_filter() -> None:
    sees, ledger, pool = detector(assumedBatch=0), Ledger(), builders.snapshot(2)
    cycle = Cycle(request=builders.request(), snapshot=pool, now=NOW, rng=Random(0), inflight=ledger)
    sees.see(pool, ledger)
    for _ in range(5):
        ledger.start(0)
    assert sees.keep(cycle, BOTH).tolist() == [False, True]
    for _ in range(5):
        ledger.start(1)
    assert sees.keep(cycle, BOTH).all()


def fill(sees: SaturationDetector, pool: Snapshot, ledger: Ledger) -> int:
    """Requests of 100 tokens that one drain would send."""
    room = room_of(sees, pool, np.arange(len(pool)), ledger, NOW)
    count = 0
    while room.saturation() < 1.0:
        room.take(1, 100)
        count += 1
    return count


def test_the_room_is_what_the_detector_would_see() -> None:
    pool, ledger = builders.snapshot(4, waiting=[1, 1, 1, 1]), Ledger()
    assert fill(UtilizationDetector(UtilizationParameters()), pool, ledger) == 16
    assert fill(detector(), pool, ledger) == 16
    # An idle pool has its batches to fill first.
    assert fill(detector(assumedBatch=10), builders.snapshot(4), ledger) == 4 * 10 + 4 * 5
    limits = {"maxConcurrency": 3, "maxTokenConcurrency": 200}
    for mode, expected in [("requests", 12), ("tokens", 8), ("hybrid", 8)]:
        given = msgspec.convert({**limits, "concurrencyMode": mode}, ConcurrencyParameters)
        assert fill(ConcurrencyDetector(given), pool, ledger) == expected


def test_a_drain_and_the_detector_after_it_agree() -> None:
    sees, ledger, pool = detector(assumedBatch=3), Ledger(), builders.snapshot(3, running=[1, 2, 9])
    sees.see(pool, ledger)
    room = sees.room(pool, np.arange(3), ledger, NOW)
    for i in range(9):
        room.take(1, 0)
        ledger.start(i % 3)
    after = replace(pool, version=2)
    assert sees.saturation(after, np.arange(3), ledger, NOW) >= room.saturation() > 0.0


class Foreign:
    """A published detector that knows nothing of rooms."""

    def saturation(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> float:
        return 0.5


def test_a_detector_that_gives_no_room_is_given_one() -> None:
    assert fill(Foreign(), builders.snapshot(4), Ledger()) == 10


def test_the_row() -> None:
    (row,) = PLUGINS
    built = row.build(row.parameters(), BuildContext("x", {}.__getitem__))
    assert isinstance(built, SaturationDetector)
    assert isinstance(built, RoomGiver)
    assert isinstance(built, Filter)
