"""Session affinity: tokens in headers, remembered sessions, and what happens when the endpoint is gone."""

from __future__ import annotations

import base64
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from epp.datalayer.inflight import Ledger
from epp.domain.decision import Decision, ProfileRun
from epp.domain.snapshot import Snapshot
from epp.plugins.bindings import Bindings
from epp.scheduling.contract import Cycle
from tests.builders import request, snapshot
from tests.laws.world import build

SESSION = {"strategy": "session_id"}


def cycle_of(pool: Snapshot, headers: dict[str, str], *, now: float = 0.0) -> Cycle:
    return Cycle(request=request(headers=headers), snapshot=pool, now=now, rng=Random(1), inflight=Ledger())


def decide(pool: Snapshot, **picks: int) -> Decision:
    rows = np.arange(len(pool))
    runs = [ProfileRun(name, rows, (), rows, (), np.zeros(len(pool)), (row,)) for name, row in picks.items()]
    primary = next(iter(picks))
    return Decision(
        "r", 0.0, "base", "base", pool, (pool.endpoints[picks[primary]],), primary, tuple(runs), 1, 0
    )


def token(key: str) -> str:
    return base64.b64encode(key.encode()).decode()


def scores(plugin: Any, cycle: Cycle) -> list[float]:
    return list(plugin.score(cycle, np.arange(len(cycle.snapshot))))


def kept(plugin: Any, cycle: Cycle, rows: list[int] | None = None) -> list[bool]:
    asked = np.arange(len(cycle.snapshot)) if rows is None else np.asarray(rows)
    return list(plugin.keep(cycle, asked))


class TestEncodedEndpoint:
    def test_prefers_and_pins_the_named_endpoint(self) -> None:
        cycle = cycle_of(snapshot(3), {"x-session-token": token("default/pod-1")})
        assert scores(build("session-affinity-scorer"), cycle) == [0.0, 1.0, 0.0]
        assert kept(build("session-affinity-filter"), cycle) == [False, True, False]

    @pytest.mark.parametrize(
        "header", ["", "???", "AAAA", token("default/gone"), token("x" * 5000), "\u00e9\u00e9\u00e9\u00e9"]
    )
    def test_no_session(self, header: str) -> None:
        cycle = cycle_of(snapshot(2), {"x-session-token": header})
        assert scores(build("session-affinity-scorer"), cycle) == [0.0, 0.0]
        assert kept(build("session-affinity-filter"), cycle) == [True, True]

    def test_falls_open_when_the_endpoint_is_no_candidate(self) -> None:
        cycle = cycle_of(snapshot(3), {"x-session-token": token("default/pod-1")})
        assert kept(build("session-affinity-filter"), cycle, [0, 2]) == [True, True]

    def test_answers_with_the_token_that_it_reads(self) -> None:
        plugin, pool = build("session-affinity-scorer"), snapshot(3)
        [(name, value)] = plugin.answer_headers(request(), decide(pool, default=2), None)
        assert (name, value) == ("x-session-token", token("default/pod-2"))
        assert scores(plugin, cycle_of(pool, {name: value})) == [0.0, 0.0, 1.0]

    def test_names_who_served(self) -> None:
        plugin, pool = build("session-affinity-scorer"), snapshot(3)
        served = pool.endpoints[0].authority
        headers = plugin.answer_headers(request(), decide(pool, default=2), served)
        assert headers == (("x-session-token", token("default/pod-0")),)
        named = build("session-affinity-scorer", profileName="default")
        assert named.answer_headers(request(), decide(pool, default=2), served) == headers

    def test_of_one_profile_under_a_header_of_its_own(self) -> None:
        plugin = build(
            "session-affinity-filter",
            profileName="prefill",
            encodedEndpointHeaderConfig={"header": "X-Session-Token-Prefill"},
        )
        pool = snapshot(3)
        headers = plugin.answer_headers(
            request(), decide(pool, decode=0, prefill=2), pool.endpoints[0].authority
        )
        assert headers == (("x-session-token-prefill", token("default/pod-2")),)
        assert plugin.answer_headers(request(), decide(pool, decode=0), None) == ()


class TestRememberedSession:
    def test_binds_at_the_choice(self) -> None:
        plugin, pool = build("session-affinity-scorer", **SESSION), snapshot(3)
        first = cycle_of(pool, {"x-session-id": "s"})
        assert scores(plugin, first) == [0.0, 0.0, 0.0]
        plugin.chosen(first, decide(pool, default=2))
        assert scores(plugin, cycle_of(pool, {"x-session-id": "s"})) == [0.0, 0.0, 1.0]
        assert scores(plugin, cycle_of(pool, {"x-session-id": "t"})) == [0.0, 0.0, 0.0]
        assert scores(plugin, cycle_of(pool, {})) == [0.0, 0.0, 0.0]
        assert plugin.dump_state() == {"sessions": 1}

    def test_expires_when_unused(self) -> None:
        plugin, pool = build("session-affinity-filter", **SESSION), snapshot(2)
        plugin.chosen(cycle_of(pool, {"x-session-id": "s"}), decide(pool, default=1))
        assert kept(plugin, cycle_of(pool, {"x-session-id": "s"}, now=300.0)) == [False, True]
        assert kept(plugin, cycle_of(pool, {"x-session-id": "s"}, now=300.1)) == [True, True]

    def test_rebinds_when_the_endpoint_is_gone(self) -> None:
        plugin, pool = build("session-affinity-filter", **SESSION), snapshot(3)
        plugin.chosen(cycle_of(pool, {"x-session-id": "s"}), decide(pool, default=2))
        smaller = snapshot(endpoints=pool.endpoints[:2])
        again = cycle_of(smaller, {"x-session-id": "s"})
        assert kept(plugin, again) == [True, True]
        plugin.chosen(again, decide(smaller, default=1))
        assert kept(plugin, cycle_of(pool, {"x-session-id": "s"})) == [False, True, False]

    def test_sources_in_order(self) -> None:
        sources = [{"header": "X-A"}, {"attribute": "SessionID"}]
        plugin = build("session-affinity-scorer", **SESSION, sessionIdConfig={"sources": sources})
        pool = snapshot(2)
        plugin.chosen(cycle_of(pool, {"x-a": "one"}), decide(pool, default=1))
        cycle = cycle_of(pool, {"cookie": "sid=one"})
        build("session-id-producer", cookieName="sid").produce(cycle)
        assert scores(plugin, cycle) == [0.0, 1.0]

    def test_endless_identifiers_are_no_sessions(self) -> None:
        plugin, pool = build("session-affinity-scorer", **SESSION), snapshot(1)
        plugin.chosen(cycle_of(pool, {"x-session-id": "s" * 300}), decide(pool, default=0))
        assert plugin.dump_state() == {"sessions": 0}

    @pytest.mark.parametrize("source", [{}, {"header": "a", "attribute": "b"}])
    def test_a_source_is_one_thing(self, source: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="exactly one"):
            build("session-affinity-filter", **SESSION, sessionIdConfig={"sources": [source]})

    def test_an_unknown_strategy(self) -> None:
        with pytest.raises(msgspec.ValidationError):
            build("session-affinity-filter", strategy="sticky")


class TestSessionIdProducer:
    @pytest.mark.parametrize(
        ("parameters", "headers", "found"),
        [
            ({}, {"x-session-id": "a"}, "a"),
            ({"headerName": "X-Mine"}, {"x-mine": "b"}, "b"),
            ({"cookieName": "sid"}, {"cookie": "other=1; sid=c; more=2"}, "c"),
            ({"cookieName": "sid"}, {"cookie": "xsid=1"}, None),
            ({"cookieName": "sid"}, {"cookie": "sid=\x00;;=;"}, None),
            ({"cookieName": "sid"}, {}, None),
            ({}, {}, None),
        ],
    )
    def test_sources(self, parameters: dict[str, str], headers: dict[str, str], found: str | None) -> None:
        cycle = cycle_of(snapshot(1), headers)
        build("session-id-producer", **parameters).produce(cycle)
        assert cycle.state.get("SessionID") == found

    def test_only_one(self) -> None:
        with pytest.raises(ValueError, match="only one"):
            build("session-id-producer", headerName="a", cookieName="b")


class TestBindings:
    def test_bounded(self) -> None:
        bindings = Bindings(10.0, 1.0, max_sessions=3)
        for name in "abcd":
            bindings.bind(name, "x", 0.0)
        assert [bindings.get(name, 0.0) for name in "abcd"] == [None, "x", "x", "x"]
        assert len(bindings) == 3

    def test_use_keeps_and_sweeps_happen_at_intervals(self) -> None:
        bindings = Bindings(10.0, 5.0)
        bindings.bind("a", "x", 0.0)
        bindings.bind("b", "x", 1.0)
        bindings.bind("a", "y", 4.0)
        bindings.bind("c", "x", 12.0)
        assert len(bindings) == 2, "b had expired"
        bindings.bind("c", "x", 15.0)
        assert len(bindings) == 2, "a had expired, but it is not time to sweep"
        assert bindings.get("a", 15.0) is None
        bindings.bind("c", "x", 17.0)
        assert len(bindings) == 1
