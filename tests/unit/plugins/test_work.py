"""Expected work: its cost in tokens, what it takes for requests of others, and that it is an argmin."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.datalayer.inflight import Ledger
from epp.domain.snapshot import NEVER, Snapshot
from epp.plugins.signals import APPROXIMATE_PREFIX
from epp.plugins.work import ExpectedWork
from epp.scheduling.contract import Cycle, PrefixMatch
from tests.builders import request, snapshot
from tests.laws.world import build


def plugin(**parameters: Any) -> ExpectedWork:
    built = build("expected-work-scorer", **parameters)
    assert isinstance(built, ExpectedWork)
    return built


def ledger_of(load: list[tuple[int, int]]) -> Ledger:
    """(requests, prefill tokens) by slot; the tokens are in the first request."""
    ledger = Ledger()
    for slot, (count, tokens) in enumerate(load):
        for i in range(count):
            ledger.start(slot, prefill_tokens=tokens if i == 0 else 0)
    return ledger


def cycle_of(
    pool: Snapshot, ledger: Ledger, *, now: float = 100.0, matched: list[float] | None = None
) -> Cycle:
    cycle = Cycle(
        request=request(b"x" * 4000), snapshot=pool, now=now, rng=Random(1), inflight=ledger
    )  # 1,000 tokens
    if matched is not None:
        cycle.prefix[APPROXIMATE_PREFIX] = PrefixMatch(np.asarray(matched), 16, 64)
    return cycle


def cost(scorer: ExpectedWork, cycle: Cycle) -> list[float]:
    return scorer.cost(cycle, np.arange(len(cycle.snapshot))).tolist()


def test_backlog_uncached_and_running() -> None:
    cycle = cycle_of(snapshot(3), ledger_of([(3, 0), (3, 500), (3, 200)]), matched=[0.0, 10.0, 16.0])
    expected = [3 * 1000.0 + 3 * 128, 500 + 3 * 360 + 3 * 128, 200 + 0 + 3 * 128]
    assert cost(plugin(), cycle) == expected
    scores = plugin().score(cycle, np.arange(3))
    least = min(expected)
    assert scores.tolist() == pytest.approx([(1 + least) / (1 + c) for c in expected])


def test_weights_are_parameters() -> None:
    cycle = cycle_of(snapshot(1), ledger_of([(2, 50)]))
    assert cost(plugin(backlogWeight=2, uncachedWeight=0.5, runningTokens=10), cycle) == [100 + 500 + 20]


def test_without_a_match_the_whole_prompt_is_uncached() -> None:
    assert cost(plugin(), cycle_of(snapshot(2), Ledger())) == [3000.0, 3000.0]


def test_tokens_that_another_has_cost_less_where_fewer_run() -> None:
    loads = ledger_of([(0, 0), (1, 0), (2, 0), (5, 0)])  # 2 on average
    cycle = cycle_of(snapshot(4), loads, matched=[0.0, 0.0, 0.0, 15.0])
    shared, own = 960, 40
    assert cost(plugin(), cycle) == [
        1 * shared + 3 * own,
        2 * shared + 3 * own + 128,
        3 * shared + 3 * own + 2 * 128,
        3 * own + 5 * 128,
    ]
    assert cost(plugin(uncachedWeight=1), cycle) == [1000, 1000 + 128, 1000 + 2 * 128, own + 5 * 128]


def test_requests_of_others_count_as_running_there() -> None:
    pool = snapshot(2, running=[2.0, 2.0])
    assert cost(plugin(), cycle_of(pool, Ledger(), matched=[0.0, 15.0])) == [3000 + 256, 3 * 40 + 256]


def test_a_prefix_that_all_prompts_share_keeps_no_endpoint_cold() -> None:
    """One endpoint has 960 of 1,000 tokens: to an idle one that is worth 960, which is 8 running requests."""
    scorer, ledger, matched = plugin(), Ledger(), [15.0, 0.0, 0.0]
    for _ in range(27):
        costs = cost(scorer, cycle_of(snapshot(3), ledger, matched=matched))
        row = costs.index(min(costs))
        ledger.start(row)
        matched[row] = 15.0
    assert ledger.requests(np.arange(3)).tolist() == [9.0, 9.0, 9.0]


class TestOthers:
    """Requests of other clients and pickers, seen as scraped running + waiting minus ours."""

    def test_cost_the_average_of_ours(self) -> None:
        pool = snapshot(2, running=[2.0, 3.0], waiting=[0.0, 1.0])
        cycle = cycle_of(pool, ledger_of([(2, 400), (2, 0)]))
        # Ours: 400 + 4 x 128 = 912 tokens for 4 requests, so 228 each; two others at the second.
        assert cost(plugin(), cycle) == [3000 + 400 + 256, 3000 + 256 + 2 * 228]

    def test_cost_a_running_request_when_we_have_none(self) -> None:
        assert cost(plugin(), cycle_of(snapshot(1, running=[2.0]), Ledger())) == [3000 + 2 * 128]

    @pytest.mark.parametrize("scraped_at", [99.0, NEVER])
    def test_count_nothing_when_metrics_are_stale(self, scraped_at: float) -> None:
        pool = snapshot(1, running=[9.0], scraped_at=[scraped_at])
        assert cost(plugin(), cycle_of(pool, Ledger())) == [3000.0]

    def test_become_stale_without_a_new_scrape(self) -> None:
        scorer, pool = plugin(), snapshot(1, running=[1.0])
        assert cost(scorer, cycle_of(pool, Ledger())) == [3128.0]
        assert cost(scorer, cycle_of(pool, Ledger(), now=100.3)) == [3000.0]

    def test_are_not_hidden_by_what_we_send_after_the_scrape(self) -> None:
        scorer, ledger, pool = plugin(), Ledger(), snapshot(1, running=[1.0])
        assert cost(scorer, cycle_of(pool, ledger)) == [3128.0]
        ledger.start(0)
        assert cost(scorer, cycle_of(pool, ledger)) == [3000 + 128 + 128]

    def test_do_not_appear_when_ours_end_after_the_scrape(self) -> None:
        scorer, ledger, pool = plugin(), Ledger(), snapshot(1, running=[1.0])
        entry = ledger.start(0)
        assert cost(scorer, cycle_of(pool, ledger)) == [3128.0]
        entry.end()
        assert cost(scorer, cycle_of(pool, ledger)) == [3000.0]

    def test_are_counted_anew_at_the_next_scrape_of_that_endpoint_only(self) -> None:
        scorer, ledger = plugin(foreignSmoothingSeconds=0), Ledger()
        entries = [ledger.start(0), ledger.start(1)]
        cost(scorer, cycle_of(snapshot(2, running=[1.0, 1.0]), ledger))
        for entry in entries:
            entry.end()
        pool = replace(snapshot(2, running=[1.0, 1.0], scraped_at=[100.05, 100.0]), version=2)
        assert cost(scorer, cycle_of(pool, ledger, now=100.1)) == [3128.0, 3000.0]

    def test_are_averaged_over_time(self) -> None:
        scorer, ledger = plugin(foreignSmoothingSeconds=2.0), Ledger()
        count = before = 0.0
        for version, (at, running) in enumerate([(50.0, 4.0), (51.0, 0.0), (51.5, 8.0), (80.0, 1.0)]):
            pool = replace(snapshot(1, running=[running], scraped_at=[at]), version=version)
            count = running if not version else count + (running - count) * (1 - math.exp(-(at - before) / 2))
            before = at
            for _ in range(2):
                assert cost(scorer, cycle_of(pool, ledger, now=at)) == pytest.approx([3000 + 128 * count])

    def test_are_forgotten_with_the_slot(self) -> None:
        scorer, pool = plugin(), snapshot(1, running=[5.0])
        assert cost(scorer, cycle_of(pool, Ledger())) == [3000 + 5 * 128]
        scorer.forget(0)
        other = snapshot(1, scraped_at=[NEVER])
        assert cost(scorer, cycle_of(other, Ledger())) == [3000.0]

    def test_a_growing_pool(self) -> None:
        scorer = plugin()
        for size in (1, 3, 2, 5):
            pool = snapshot(size, running=[1.0] * size)
            assert cost(scorer, cycle_of(pool, Ledger())) == [3128.0] * size


@given(
    loads=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9000)), min_size=1, max_size=12),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_alone_it_is_the_exact_argmin(loads: list[tuple[int, int]], seed: int) -> None:
    matched = [float(Random(seed + i).randrange(17)) for i in range(len(loads))]
    cycle = cycle_of(snapshot(len(loads)), ledger_of(loads), matched=matched)
    scorer = plugin()
    costs, scores = cost(scorer, cycle), scorer.score(cycle, np.arange(len(loads)))
    best = {i for i, value in enumerate(costs) if value == min(costs)}
    assert {i for i, value in enumerate(scores.tolist()) if value == 1.0} == best
    assert (scores > 0).all()


def fullest(pickers: int, elsewhere: float, **parameters: Any) -> float:
    """Mean of how far the fullest of 8 endpoints is above the average of 15 requests; scrapes every 200 ms.

    Each request goes through one of the pickers, which know of each other by scrapes only; a share goes to
    two endpoints without any picker.
    """
    rng, size, now = Random(5), 8, 0.0
    sides = [(plugin(**parameters), Ledger()) for _ in range(pickers)]
    base, running, above = snapshot(size), np.zeros(size), []
    seen, scraped_at, version = running.copy(), 0.0, 0
    ends: list[tuple[float, int, int, Any]] = []
    for i in range(2500):
        now += rng.expovariate(8 * 15)
        while ends and ends[0][0] <= now:
            _, _, row, entry = heapq.heappop(ends)
            running[row] -= 1
            if entry is not None:
                entry.end()
        if now - scraped_at >= 0.2:
            seen, scraped_at, version = running.copy(), now, version + 1
        entry = None
        row = rng.randrange(2)
        if rng.random() >= elsewhere:
            scorer, ledger = sides[rng.randrange(pickers)]
            pool = replace(base, version=version, running=seen, scraped_at=np.full(size, scraped_at))
            scores = scorer.score(cycle_of(pool, ledger, now=scraped_at), np.arange(size))
            row = rng.choice(np.flatnonzero(scores == scores.max()).tolist())
            entry = ledger.start(row)
        running[row] += 1
        heapq.heappush(ends, (now + rng.expovariate(1.0), i, row, entry))
        if i > 500:
            above.append(running.max() - running.mean())
    return float(np.mean(above))


def test_several_pickers_do_not_herd() -> None:
    assert fullest(4, 0.0) < 0.5 * fullest(4, 0.0, foreignSmoothingSeconds=0)


def test_load_from_elsewhere_is_seen() -> None:
    assert fullest(1, 0.2) < 4.0, "8 x 15 requests, a fifth of them on two endpoints: 9 too many, if not seen"
