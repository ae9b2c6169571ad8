"""The scheduler: what a decision holds, whom it refuses, and what plugins are told afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from epp.datalayer.inflight import Ledger
from epp.domain.decision import Decision
from epp.domain.errors import Reason, Refused
from epp.domain.request import Prompt
from epp.domain.snapshot import Snapshot
from epp.scheduling.contract import Cycle
from epp.scheduling.profile import Named, Profile
from epp.scheduling.scheduler import Scheduler
from tests.builders import request, snapshot
from tests.laws.world import build
from tests.unit.scheduling.plugins_made import (
    BEST,
    FIRST,
    Failing,
    Keeping,
    Recording,
    Running,
    Scoring,
    Sink,
    Ticking,
)


def named(name: str, plugin: Any = None) -> Any:
    return Named(name, name, build(name) if plugin is None else plugin)


def profile(name: str = "default", *, keep: Any = None, picker: Any = BEST, score: Any = None) -> Profile:
    return Profile(
        name,
        named("picker", picker),
        () if keep is None else (named(f"{name}-filter", Keeping(keep)),),
        () if score is None else ((named(f"{name}-scorer", Scoring(score)), 1.0),),
    )


def scheduler(*profiles: Profile, handler: Any = None, plugins: Sequence[Any] = (), **more: Any) -> Scheduler:
    handler = handler or Running([p.name for p in profiles])
    return Scheduler(profiles, named("handler", handler), plugins, more.pop("inflight", Ledger()), **more)


def decide(
    made: Scheduler, pool: Snapshot | None = None, rows: list[int] | None = None, seed: int = 1, **more: Any
) -> tuple[Cycle, Decision]:
    pool = snapshot(4) if pool is None else pool
    candidates = np.arange(len(pool)) if rows is None else np.asarray(rows, dtype=np.intp)
    return made.schedule(request(**more), pool, candidates, now=12.5, seed=seed)


def default_policy() -> Scheduler:
    producer = named("approx-prefix-cache-producer")
    work, picker = named("expected-work-scorer"), named("max-score-picker")
    only = Profile("default", picker, (), ((work, 1.0),))
    return Scheduler([only], named("single-profile-handler"), [producer, work, picker], Ledger())


def test_what_a_decision_holds() -> None:
    pool = snapshot(4)
    cycle, decision = decide(
        scheduler(profile(score=lambda rows: rows / 4)), pool, [0, 2], seed=77, model="m"
    )
    assert decision.endpoints == (pool.endpoints[2],)
    assert decision.destination == "10.0.0.3:8000"
    assert (decision.request_id, decision.model, decision.at, decision.seed) == ("req-1", "m", 12.5, 77)
    assert decision.snapshot is pool
    assert decision.primary == "default"
    assert [run.candidates.tolist() for run in decision.runs] == [[0, 2]]
    assert decision.input_tokens == 2
    assert decision.cached_tokens == 0
    assert cycle.profiles == ("default",)


def test_cached_tokens_come_from_the_prefix_of_the_chosen() -> None:
    made, pool = default_policy(), snapshot(3)
    prompt = (Prompt(text=bytes(range(256)) * 8),)
    cycle, first = decide(made, pool, [1], prompts=prompt)
    assert (first.input_tokens, first.cached_tokens, first.uncached_tokens) == (512, 0, 512)
    made.chosen(cycle, first)
    _, second = decide(made, pool, prompts=prompt)
    assert second.endpoint is pool.endpoints[1]
    assert (second.cached_tokens, second.uncached_tokens) == (512, 0)
    assert second.attributes["prefix-match-tokens"].tolist() == [0.0, 512.0, 0.0]


@pytest.mark.parametrize(
    ("column", "cached"),
    [
        ([1.5, 2.5], 2),
        ([0, 99], 2),
        ([0, np.nan], 0),
        ([0, np.inf], 0),
        ([0, -3], 0),
        ([7.0], 0),
        ([[1], [[]]], 0),
    ],
)
def test_what_a_producer_says_of_the_cache_is_bounded(column: Any, cached: int) -> None:
    class Claiming:
        def produce(self, cycle: Cycle) -> None:
            cycle.columns["prefix-match-tokens"] = column

    made = scheduler(profile(score=lambda rows: rows / 4), plugins=[named("claiming", Claiming())])
    assert decide(made, snapshot(2))[1].cached_tokens == cached


def test_the_seed_repeats_a_decision_and_spreads_ties() -> None:
    made, pool = default_policy(), snapshot(8)
    names = [decide(made, pool, seed=seed)[1].endpoint.name for seed in range(40)]
    assert names == [decide(made, pool, seed=seed)[1].endpoint.name for seed in range(40)]
    assert len(set(names)) > 4


def test_no_candidates() -> None:
    with pytest.raises(Refused) as caught:
        decide(scheduler(profile()), rows=[])
    assert caught.value.reason is Reason.NO_ENDPOINTS


def test_the_filter_that_left_none_is_named() -> None:
    with pytest.raises(Refused, match="'default-filter' of profile 'default' left none of 4") as caught:
        decide(scheduler(profile(keep=lambda rows: rows < 0)))
    assert caught.value.reason is Reason.NO_ENDPOINT_LEFT


class TestAvoidedEndpoints:
    def test_are_dropped_first_and_named(self) -> None:
        pool = snapshot(4, available=[False, True, False, True])
        _, decision = decide(scheduler(profile(picker=FIRST)), pool)
        [run] = decision.runs
        assert decision.endpoint is pool.endpoints[1]
        assert [(drop.filter, drop.rows.tolist()) for drop in run.drops] == [("unavailable", [0, 2])]
        assert run.candidates.tolist() == [0, 1, 2, 3]

    def test_are_used_when_there_are_no_others(self) -> None:
        pool = snapshot(4, available=[False, False, False, True])
        _, decision = decide(scheduler(profile(picker=FIRST)), pool, [0, 2])
        assert decision.endpoint is pool.endpoints[0]
        assert decision.runs[0].drops == ()


class TestSeveralProfiles:
    def test_all_that_the_handler_names_and_its_primary(self) -> None:
        made = scheduler(
            profile("decode", keep=lambda rows: rows > 1, picker=FIRST),
            profile("prefill", keep=lambda rows: rows < 2, picker=FIRST),
            profile("unused"),
            handler=Running(["prefill", "decode"], main="decode"),
        )
        _, decision = decide(made)
        assert [(run.profile, run.picked) for run in decision.runs] == [("prefill", (0,)), ("decode", (2,))]
        assert decision.primary == "decode"
        assert decision.endpoint.name == "pod-2"

    def test_one_that_found_none_is_the_handlers_business(self) -> None:
        made = scheduler(
            profile("decode", picker=FIRST),
            profile("prefill", keep=lambda rows: rows < 0),
            handler=Running(["decode", "prefill"]),
        )
        _, decision = decide(made)
        assert [(run.profile, run.picked) for run in decision.runs] == [("decode", (0,)), ("prefill", ())]

    def test_one_that_does_not_exist(self) -> None:
        with pytest.raises(Refused, match="no scheduling profile 'encode'"):
            decide(scheduler(profile(), handler=Running(["encode"])))

    def test_a_primary_that_did_not_run(self) -> None:
        with pytest.raises(Refused, match="'other' did not run"):
            decide(scheduler(profile(), handler=Running(["default"], main="other")))


class TestBrokenPlugins:
    def test_cost_only_themselves(self) -> None:
        sink, good = Sink(), Recording()
        made = scheduler(
            profile(picker=FIRST),
            profile("second"),
            handler=Failing(),
            plugins=[named("broken", Failing()), named("good", good)],
            sink=sink,
            clock=Ticking(),
        )
        cycle, decision = decide(made)
        made.chosen(cycle, decision)
        assert decision.primary == "default"
        assert decision.attributes["seen"].tolist() == [0.0, 1.0, 2.0, 3.0]
        assert made.request_headers(cycle, decision) == (("x-to", "pod-0"),)
        assert made.answer_headers(cycle.request, decision, "a:1") == (("x-served", "a:1"),)
        assert made.expected_output(cycle.request) == 7
        assert good.told == ["produce", ("chosen", "pod-0")]
        points = [(point, name) for point, _, name, _ in sink.faults]
        assert points == [
            ("DataProducer", "broken"),
            ("ProfilePicker", "handler"),
            ("ProfilePicker", "handler"),
            ("ProcessProfilesResults", "handler"),
            ("PreRequest", "broken"),
            ("PreRequest", "broken"),
            ("ResponseReceived", "broken"),
            ("PreRequest", "broken"),
        ]
        assert {what for *_, what in sink.faults} == {"RuntimeError: out of order"}

    def test_are_silent_without_a_sink(self) -> None:
        made = scheduler(profile(picker=FIRST), plugins=[named("broken", Failing())])
        assert decide(made)[1].endpoint.name == "pod-0"


def test_what_is_timed() -> None:
    sink = Sink()
    made = scheduler(
        profile(score=lambda rows: rows / 4), plugins=[named("good", Recording())], sink=sink, clock=Ticking()
    )
    cycle, decision = decide(made)
    made.chosen(cycle, decision)
    made.answer_headers(cycle.request, decision, None)
    assert [(point, name) for point, _, name, _ in sink.timings] == [
        ("DataProducer", "good"),
        ("ProfilePicker", "handler"),
        ("Scorer", "default-scorer"),
        ("Picker", "picker"),
        ("ProcessProfilesResults", "handler"),
        ("PreRequest", "good"),
        ("ResponseReceived", "good"),
    ]
    assert all(seconds == 1.0 for *_, seconds in sink.timings)


def test_one_of_so_many_decisions_is_timed() -> None:
    sink = Sink()
    made = scheduler(profile(picker=FIRST), sink=sink, clock=Ticking(), timed_every=3)
    timed = []
    for _ in range(7):
        sink.timings.clear()
        decide(made)
        timed.append(bool(sink.timings))
    assert timed == [True, False, False, True, False, False, True]


def test_the_clock_is_not_looked_at_without_a_sink() -> None:
    clock = Ticking()
    decide(scheduler(profile(picker=FIRST), clock=clock))
    assert clock.now == 0.0


def test_of_one_header_the_last_plugin_counts() -> None:
    made = scheduler(
        profile(picker=FIRST),
        plugins=[named("a", Recording()), named("b", Recording()), named("c", object())],
    )
    cycle, decision = decide(made)
    assert made.answer_headers(cycle.request, decision, None) == (("x-served", "None"),)


def test_state_and_forgetting_reach_every_plugin_that_has_it() -> None:
    one, other, sink = Recording(), Recording(), Sink()
    plugins = [named("a", one), named("broken", Failing()), named("b", other), named("c", object())]
    made = scheduler(profile(), plugins=plugins, sink=sink)
    made.forget(3)
    assert one.told == other.told == [("forget", 3)]
    assert made.dump_state() == {
        "a": {"told": 1},
        "broken": {"error": "RuntimeError: out of order"},
        "b": {"told": 1},
    }
    assert [name for _, _, name, _ in sink.faults] == ["broken"]


def test_nothing_to_say_without_plugins() -> None:
    made = scheduler(profile(picker=FIRST))
    cycle, decision = decide(made)
    assert made.request_headers(cycle, decision) == ()
    assert made.answer_headers(cycle.request, decision, None) == ()
    assert made.expected_output(cycle.request) is None


def test_a_scheduler_needs_a_profile() -> None:
    with pytest.raises(ValueError, match="at least one profile"):
        scheduler(handler=Running(["default"]))


def test_inputs_are_not_touched() -> None:
    made, pool = default_policy(), snapshot(4)
    candidates = np.asarray([3, 1, 0])
    candidates.flags.writeable = False
    for name in ("waiting", "running", "kv_used", "scraped_at", "available"):
        getattr(pool, name).flags.writeable = False
    _, decision = made.schedule(request(), pool, candidates, now=12.5, seed=1)
    assert decision.runs[0].rows.tolist() == [3, 1, 0]
