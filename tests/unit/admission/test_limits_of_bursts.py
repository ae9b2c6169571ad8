"""The burst detector's own limits: requests that an endpoint has, and prompts that it has not prefilled."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from epp.admission.burst import BurstDetector, BurstParameters
from epp.admission.room import Filling, Room, Term
from epp.datalayer.inflight import Ledger
from epp.domain.snapshot import Snapshot
from tests import builders

NOW = 100.0
BOTH = np.arange(2)


def detector(**given: Any) -> BurstDetector:
    return BurstDetector(msgspec.convert(given, BurstParameters))


def fill(room: Room, ceiling: float = 1.0, tokens: int = 100) -> int:
    """Requests that one drain would send."""
    count = 0
    while room.saturation() < ceiling:
        room.take(1, tokens)
        count += 1
    return count


def load(sees: BurstDetector, pool: Snapshot, ledger: Ledger) -> float:
    return sees.saturation(pool, BOTH, ledger, NOW)


def test_requests_fill_an_endpoint_before_any_waits() -> None:
    sees, ledger, pool = detector(maxRequests=10), Ledger(), builders.snapshot(2)
    assert load(sees, pool, ledger) == 0.0
    entries = [ledger.start(i % 2) for i in range(10)]
    assert load(sees, pool, ledger) == pytest.approx(0.5)
    assert fill(sees.room(pool, BOTH, ledger, NOW)) == 10
    assert fill(sees.room(pool, BOTH, ledger, NOW), ceiling=0.8) == 6
    entries[0].end()
    assert load(sees, pool, ledger) == pytest.approx(0.45)


def test_requests_that_an_engine_does_not_show_yet_count_and_those_of_others_too() -> None:
    sees, ledger = detector(maxRequests=10), Ledger()
    for _ in range(4):
        ledger.start(0)
    # The first endpoint shows two of ours, the second three of somebody else's.
    pool = builders.snapshot(2, running=[2, 3])
    assert load(sees, pool, ledger) == pytest.approx((0.4 + 0.3) / 2)
    ledger.start(1)
    assert load(sees, pool, ledger) == pytest.approx((0.4 + 0.4) / 2)


def test_prompts_fill_an_endpoint_until_they_are_answered() -> None:
    sees, ledger, pool = detector(maxPrefillTokens=1000), Ledger(), builders.snapshot(2)
    entry = ledger.start(0, prefill_tokens=1500)
    assert load(sees, pool, ledger) == pytest.approx(0.75)
    assert fill(sees.room(pool, BOTH, ledger, NOW), tokens=100) == 5
    entry.first_token()
    assert load(sees, pool, ledger) == 0.0


def test_ours_are_taken_together_and_queues_endpoint_by_endpoint() -> None:
    """One endpoint has the requests and the other the prompts: each could take more of the other kind."""
    sees, ledger, pool = detector(maxRequests=10, maxPrefillTokens=1000), Ledger(), builders.snapshot(2)
    for _ in range(10):
        ledger.start(0)
    ledger.start(1, prefill_tokens=1000)
    assert load(sees, pool, ledger) == pytest.approx(11 / 20)
    queues = builders.snapshot(2, waiting=[10, 0], kv_used=[0.0, 0.8])
    assert load(detector(), queues, ledger) == pytest.approx((2.0 + 1.0) / 2)


def test_unset_limits_change_nothing_and_stale_metrics_are_full() -> None:
    ledger, pool = Ledger(), builders.snapshot(2)
    for _ in range(12):
        ledger.start(0, prefill_tokens=100_000)
    plain = detector(assumedBatch=0)
    plain.see(pool, Ledger())
    assert plain.saturation(pool, BOTH, ledger, NOW) == pytest.approx(12 / 5 / 2)
    old = builders.snapshot(2, scraped_at=[NOW, NOW - 9.0])
    assert load(detector(maxRequests=100), old, Ledger()) == 0.5


def test_the_limit_that_is_filled_furthest_counts() -> None:
    terms = [Term(0.5, 0.1), Term(0.2, 0.0, 0.002), Term(0.0, 1.0, unloaded=3)]
    room = Filling(0.5, terms)
    room.take(1, 10)
    assert room.saturation() == pytest.approx(0.6)
    room.take(1, 300)
    assert room.saturation() == pytest.approx(0.82)
    room.take(2, 0)
    assert room.saturation() == pytest.approx(1.0)


def test_a_load_above_all_terms_grows_as_the_highest_does() -> None:
    room = Filling(0.9, [Term(0.5, 0.1), Term(0.0, 0.0, 0.01)])
    assert room.saturation() == pytest.approx(0.9)
    room.take(1, 0)
    assert room.saturation() == pytest.approx(1.0)
