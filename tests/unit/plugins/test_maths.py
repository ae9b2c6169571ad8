"""The exact maths of scorers and filters, with worked examples."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from epp.datalayer.inflight import Ledger
from epp.domain.request import Prompt
from epp.plugins.signals import APPROXIMATE_PREFIX
from epp.scheduling.contract import Cycle, PrefixMatch
from tests.builders import endpoint, request, snapshot
from tests.laws.world import build


def cycle_of(
    *,
    n: int = 3,
    tokens: int = 2,
    model: str = "base",
    headers: dict[str, str] | None = None,
    requests: list[int] | None = None,
    inflight: list[int] | None = None,
    matched: list[float] | None = None,
    total: int = 0,
    block: int = 64,
    labels: list[dict[str, str]] | None = None,
    **columns: Any,
) -> Cycle:
    """A cycle with our own requests and prefill tokens by row, and a prefix match by row."""
    n = len(next(iter(columns.values()))) if columns else n
    n = len(labels or requests or inflight or matched or [None] * n)
    pool = [endpoint(i, labels=(labels or [{}] * n)[i]) for i in range(n)]
    ledger = Ledger()
    for slot, count in enumerate(requests or []):
        for _ in range(count):
            ledger.start(slot)
    for slot, count in enumerate(inflight or []):
        ledger.start(slot, prefill_tokens=count)
    cycle = Cycle(
        request=request(
            model=model, headers=headers, prompts=(Prompt(tokens=np.zeros(tokens, dtype=np.uint32)),)
        ),
        snapshot=snapshot(endpoints=pool, **columns),
        now=100.0,
        rng=Random(1),
        inflight=ledger,
    )
    if matched is not None:
        cycle.prefix[APPROXIMATE_PREFIX] = PrefixMatch(np.asarray(matched, dtype=np.float64), total, block)
    return cycle


def score(name: str, cycle: Cycle, **parameters: Any) -> list[float]:
    answer = build(name, **parameters).score(cycle, np.arange(len(cycle.snapshot)))
    return [round(float(value), 9) for value in answer]


def keep(name: str, cycle: Cycle, **parameters: Any) -> list[bool]:
    return [bool(b) for b in build(name, **parameters).keep(cycle, np.arange(len(cycle.snapshot)))]


@pytest.mark.parametrize(
    ("name", "column"), [("queue-scorer", "waiting"), ("running-requests-size-scorer", "running")]
)
@pytest.mark.parametrize(
    ("values", "scores"),
    [
        ([0, 5, 10], [1.0, 0.5, 0.0]),
        ([4, 4, 4], [1.0, 1.0, 1.0]),
        ([0, 0], [1.0, 1.0]),
        ([7], [1.0]),
        ([2, 6, 3], [1.0, 0.0, 0.75]),
    ],
)
def test_least_is_best(name: str, column: str, values: list[float], scores: list[float]) -> None:
    assert score(name, cycle_of(**{column: values})) == scores


def test_kv_cache_utilization() -> None:
    assert score("kv-cache-utilization-scorer", cycle_of(kv_used=[0.0, 0.25, 1.0, 1.5])) == [1, 0.75, 0, 0]


@pytest.mark.parametrize(
    ("waiting", "expected"), [(0, 0.5), (1, 0.49609375), (64, 0.25), (128, 0.0), (999, 0.0)]
)
def test_load_aware(waiting: float, expected: float) -> None:
    assert score("load-aware-scorer", cycle_of(waiting=[waiting])) == [expected]


def test_load_aware_threshold() -> None:
    assert score("load-aware-scorer", cycle_of(waiting=[2]), threshold=4) == [0.25]


def test_token_load_counts_flight_and_the_uncached_prompt() -> None:
    cycle = cycle_of(tokens=100, inflight=[0, 300, 2000], matched=[1, 0, 0], total=2)
    assert score("token-load-scorer", cycle, queueThresholdTokens=1000) == [0.964, 0.6, 0.0]
    assert score("token-load-scorer", cycle_of(tokens=0, n=1)) == [1.0]


@pytest.mark.parametrize(
    ("parameters", "scores"),
    [
        ({}, [1.0, 0.5, 0.0]),
        ({"idleThreshold": 1}, [1.0, 0.5, 0.0]),
        ({"idleThreshold": 2}, [1.0, 1.0, 0.0]),
        ({"idleThreshold": 4}, [1.0, 1.0, 1.0]),
        ({"maxBusyScore": 0.5}, [1.0, 0.25, 0.0]),
    ],
)
def test_active_requests(parameters: dict[str, Any], scores: list[float]) -> None:
    assert score("active-request-scorer", cycle_of(requests=[0, 2, 4]), **parameters) == scores


def test_lora_affinity() -> None:
    cycle = cycle_of(
        model="lora",
        lora_running=[["lora"], ["x"], ["x", "y"], ["x", "y"], []],
        lora_waiting=[[], [], ["lora"], ["z"], []],
        lora_max=[1, 2, 2, 3, 0],
    )
    assert score("lora-affinity-scorer", cycle) == [1.0, 0.8, 0.6, 0.0, 0.0]


def test_lora_affinity_sees_changes() -> None:
    scorer, none = build("lora-affinity-scorer"), [[]]
    for running, waiting, expected in ((none, none, 0.0), (none, [["lora"]], 0.6), ([["lora"]], none, 1.0)):
        cycle = cycle_of(model="lora", lora_running=running, lora_waiting=waiting)
        assert scorer.score(cycle, np.arange(1)).tolist() == [expected]
    cycle = cycle_of(model="lora", lora_running=none, lora_waiting=none)
    for waiting, expected in (((frozenset(),), 0.0), ((frozenset({"lora"}),), 0.6)):
        cycle.snapshot = replace(cycle.snapshot, lora_waiting=waiting)
        assert scorer.score(cycle, np.arange(1)).tolist() == [expected]


def test_lora_affinity_prefers_room_to_waiting() -> None:
    cycle = cycle_of(model="lora", lora_running=[["x"]], lora_waiting=[["lora"]], lora_max=[3])
    assert score("lora-affinity-scorer", cycle) == [0.8]


@pytest.mark.parametrize(
    ("parameters", "scores"),
    [
        ({}, [0.0, 0.25, 1.0]),
        ({"matchLengthWeight": 1.0, "matchLengthScaleTokens": 512}, [0.0, 0.0625, 1.0]),
        ({"matchLengthWeight": 0.5, "matchLengthScaleTokens": 512}, [0.0, 0.15625, 1.0]),
    ],
)
def test_prefix_cache(parameters: dict[str, Any], scores: list[float]) -> None:
    assert score("prefix-cache-scorer", cycle_of(matched=[0, 2, 8], total=8), **parameters) == scores


def test_prefix_cache_without_a_match() -> None:
    assert score("prefix-cache-scorer", cycle_of(n=2)) == [0.0, 0.0]
    assert score("prefix-cache-scorer", cycle_of(matched=[0.0, 0.0], total=0)) == [0.0, 0.0]
    other = cycle_of(matched=[1.0], total=1)
    assert score("prefix-cache-scorer", other, prefixMatchInfoProducerName="precise") == [0.0]


@pytest.mark.parametrize(
    ("label", "tokens", "expected"),
    [
        ("0-2000", 1000, 0.3 + 0.7 * (0.7 / 1.2 + 0.3 * 0.5)),
        ("0-2000", 2000, 0.3 + 0.7 * (0.7 / 1.2)),
        ("500-500", 500, 1.0),
        ("0-2000", 3000, 0.15),
        ("2000-4000", 1000, 0.15),
        ("0-2000", 2001, 0.3 / 1.001),
        (None, 1000, 0.5),
        ("many", 1000, 0.0),
        ("9-1", 5, 0.0),
    ],
)
def test_context_length(label: str | None, tokens: int, expected: float) -> None:
    labels = {} if label is None else {"llm-d.ai/context-length-range": label}
    cycle = cycle_of(tokens=tokens, labels=[labels])
    assert score("context-length-aware", cycle) == [round(expected, 9)]
    fits = label is None or expected > 0.3
    assert keep("context-length-aware", cycle, enableFiltering=True) == [fits]
    assert not hasattr(build("context-length-aware"), "keep")


class TestNoHitLru:
    def test_worked_example(self) -> None:
        """Three endpoints; B was used before C, A never: 1, 0.5, 0."""
        scorer = build("no-hit-lru-scorer")
        scorer._touch(1)
        scorer._touch(2)
        cycle = cycle_of(matched=[0, 0, 0], total=4)
        assert scorer.score(cycle, np.arange(3)).tolist() == [1.0, 0.5, 0.0]

    def test_a_hit_says_nothing(self) -> None:
        assert score("no-hit-lru-scorer", cycle_of(matched=[0, 1, 0], total=4)) == [0.5, 0.5, 0.5]

    def test_never_used_in_pool_order(self) -> None:
        assert score("no-hit-lru-scorer", cycle_of(n=5)) == [1.0, 0.75, 0.5, 0.25, 0.0]

    def test_one_candidate(self) -> None:
        assert score("no-hit-lru-scorer", cycle_of(n=1)) == [1.0]

    def test_remembered_endpoints_that_are_no_candidates_push_ranks_up(self) -> None:
        scorer = build("no-hit-lru-scorer")
        for slot in (9, 0, 1):
            scorer._touch(slot)
        assert scorer.score(cycle_of(n=3), np.arange(3)).tolist() == [0.0, 0.0, 1.0]

    def test_the_memory_is_bounded(self) -> None:
        scorer = build("no-hit-lru-scorer", lruSize=2)
        for slot in range(5):
            scorer._touch(slot)
        assert scorer.dump_state() == {"slotsOldestFirst": [3, 4]}


class TestPrefixAffinity:
    NAME = "prefix-cache-affinity-filter"

    def test_keeps_the_sticky(self) -> None:
        cycle = cycle_of(matched=[8, 7, 10], total=10, tokens=640)
        assert keep(self.NAME, cycle) == [True, False, True]

    def test_all_sticky_keeps_all(self) -> None:
        assert keep(self.NAME, cycle_of(matched=[8, 9], total=10, inflight=[10**9, 0])) == [True, True]

    def test_none_sticky_keeps_all(self) -> None:
        assert keep(self.NAME, cycle_of(matched=[1, 0, 7], total=10)) == [True] * 3
        assert keep(self.NAME, cycle_of(n=2)) == [True] * 2

    @pytest.mark.parametrize(("ahead_ms", "sticks"), [(17_999, True), (18_001, False)])
    def test_lets_go_when_too_far_behind(self, ahead_ms: int, sticks: bool) -> None:
        # The sticky one has nothing of the prompt to do, the other all 1,000 tokens of it.
        tokens = round(ahead_ms * 15_928 / 1000) + 1_000
        cycle = cycle_of(matched=[100, 0], total=100, block=10, tokens=1000, inflight=[tokens, 0])
        assert keep(self.NAME, cycle) == [True, not sticks]
        assert keep(self.NAME, cycle, maxTTFTPenaltyMs=0) == [True, False]

    def test_explores(self) -> None:
        cycle = cycle_of(matched=[10, 0], total=10)
        assert keep(self.NAME, cycle, explorationProbability=1.0) == [True, True]

    def test_the_predictor_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not supported"):
            build(self.NAME, ttftSource="latencyPredictor")


class TestUtilizationFilter:
    CONDITIONS = (
        {"metric": "active-requests", "maxValue": 1},
        {"metric": "running-requests", "maxValue": 5},
        {"metric": "waiting-queue", "maxValue": 2},
        {"metric": "kv-cache-utilization", "maxValue": 0.5},
    )

    def test_any_limit_drops(self) -> None:
        cycle = cycle_of(
            requests=[1, 2, 0, 0, 0],
            running=[5, 0, 6, 0, 0],
            waiting=[2, 0, 0, 3, 0],
            kv_used=[0.5, 0, 0, 0, 0.6],
        )
        assert keep("utilization-filter", cycle, conditions=self.CONDITIONS) == [True] + [False] * 4

    @pytest.mark.parametrize("fallback", [False, True])
    def test_none_left(self, fallback: bool) -> None:
        conditions = [{"metric": "waiting-queue", "maxValue": 1}]
        kept = keep(
            "utilization-filter", cycle_of(waiting=[2, 3]), conditions=conditions, fallbackOnEmpty=fallback
        )
        assert kept == [fallback, fallback]


def test_inflight_load_adds_expected_output_only_when_asked() -> None:
    cycle = cycle_of(n=2)
    assert isinstance(cycle.inflight, Ledger)
    cycle.inflight.start(1, prefill_tokens=100, decode_tokens=40)
    for asked, tokens in ((False, 100.0), (True, 140.0)):
        build("inflight-load-producer", addEstimatedOutputTokens=asked).produce(cycle)
        assert cycle.columns["inflight-load-producer/tokens"].tolist() == [0.0, tokens]
    # Who reads tokens in flight reads the producer's.
    assert score("token-load-scorer", cycle, queueThresholdTokens=142) == [round(1 - 2 / 142, 9), 0.0]


@pytest.mark.parametrize(
    ("parameters", "max_tokens", "expected"),
    [({}, None, 15), ({"outputRatio": 0.5}, None, 5), ({"maxEstimatedOutputTokens": 7}, None, 7), ({}, 3, 3)],
)
def test_expected_output(parameters: dict[str, Any], max_tokens: int | None, expected: int) -> None:
    plugin = build("inflight-load-producer", addEstimatedOutputTokens=True, **parameters)
    assert plugin.expected_output(request("x" * 40, max_output_tokens=max_tokens)) == expected
    assert not hasattr(build("inflight-load-producer"), "expected_output")
