"""Many pools: which one a stream is for, however the gateway says it, while pools come and go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from epp.call import RequestCall
from epp.config.reload import Text
from epp.config.sources import PoolConfigs
from epp.domain.endpoint import EndpointSpec
from epp.domain.errors import Answer
from epp.domain.pool import LEGACY_POOL_GROUP, POOL_GROUP, PoolSpec
from epp.domain.request import RequestHead
from epp.domain.views import Ending, Report, Route
from epp.pool import open_pool
from epp.pools import POOL_HEADER, OnePool, Pools
from tests.builders import head
from tests.unit.config.configs import HEADER, TYPES
from tests.unit.pooling import services
from tests.unit.telemetry.pages import page

PLAIN = Text("c", HEADER + "plugins:\n- {type: random-picker}\n")
PORTS = count(1)
BODY = b'{"model": "base", "messages": [{"role": "user", "content": "hello"}]}'


def many(*keys: str, from_header: bool = False, strict: bool = False, default: Text | Path = PLAIN) -> Pools:
    """Pools of these names, each with one endpoint of a port of its own."""
    made, configs = services(), PoolConfigs(default, plugin_types=TYPES)
    configs.count(made.metrics.configs)
    pools = Pools(made, configs, from_header=from_header, strict=strict)
    for key in keys:
        came(pools, key)
    return pools


def came(pools: Pools, key: str, service: str = "") -> None:
    namespace, _, name = key.partition("/")
    view = pools.pool_came(PoolSpec(namespace, name, "app=x", (1,), picker_service=service))
    view.set_endpoints([EndpointSpec("a", "10.0.0.1", next(PORTS), namespace=namespace)])


def said(
    pool: str = "", authority: str = "", headers: Mapping[str, str] | None = None, request_id: str = "r"
) -> RequestHead:
    made = head(headers={**(headers or {}), "x-request-id": request_id})
    return msgspec.structs.replace(made, pool=pool, authority=authority)


def taken(pools: Pools, request: RequestHead) -> str:
    """The pool that took it, or the refusal's words."""
    call = pools.open(request)
    early = call.refuse_early()
    verdict = early or call.decide(BODY)
    call.end(Ending.NATURAL, Report())
    if isinstance(verdict, Answer):
        assert verdict.status == 503
        return str(json.loads(verdict.body)["error"]["message"])
    assert isinstance(verdict, Route)
    port = verdict.destination.rpartition(":")[2]
    (found,) = [pool.label for pool in pools if str(pool.known.store.endpoints[0].port) == port]
    return found


@pytest.mark.parametrize(
    ("pool", "authority", "wanted"),
    [
        ("prod/a", "", "prod/a"),
        ("a", "", "prod/a"),  # alone of that name
        ("", "one.prod.svc.cluster.local:9002", "prod/a"),
        ("", "one.prod:9002", "prod/a"),
        ("", "two.prod", "prod/c"),
        ("", "outbound|9002||one.prod.svc.cluster.local", "prod/a"),
        ("test/b", "one.prod:9002", "test/b"),  # what names the pool counts before what names a Service
    ],
)
async def test_ways_to_say_a_pool(pool: str, authority: str, wanted: str) -> None:
    pools = many()
    came(pools, "prod/a", "one")
    came(pools, "test/b")
    came(pools, "prod/c", "two")
    assert taken(pools, said(pool, authority)) == wanted


@pytest.mark.parametrize(
    ("pool", "authority", "words"),
    [
        ("", "", "does not say which pool of 3"),
        ("prod/x", "", "no pool 'prod/x'; did the gateway mean 'prod/c'?"),
        ("c", "", "are called 'c': 2; a namespace has to be said"),
        ("prod/x", "one.prod:9002", "no pool 'prod/x'"),  # it is not guessed from the Service then
        ("", "shared.prod:9002", "does not say which pool of 3"),
        ("", "shared.test:9002", "does not say which pool of 3"),
        ("", "10.0.0.1:9002", "does not say which pool of 3"),
        ("", "[::1]:9002", "does not say which pool of 3"),
        ("\N{SNOWMAN}" * 5000, "", "no pool"),
    ],
)
async def test_what_names_no_pool_is_refused_and_counted(pool: str, authority: str, words: str) -> None:
    pools = many()
    for key in ("prod/c", "test/c", "prod/a"):
        came(pools, key, "shared" if key[:4] == "prod" else "")
    message = taken(pools, said(pool, authority))
    assert words in message
    assert len(message) < 600
    refusals = pools._services.refusals
    assert len(refusals) == 1
    assert page(pools._services.metrics).values("epp_refusals_total") == [1]


async def test_the_only_pool_takes_what_says_nothing() -> None:
    pools = many("prod/a")
    assert taken(pools, said()) == "prod/a"
    assert "no pool 'prod/b'" in taken(pools, said("prod/b"))
    pools.pool_went("prod", "a")
    assert taken(pools, said()) == "the endpoint picker serves no pool"


async def test_nothing_is_guessed_where_namespaces_are_others_own() -> None:
    pools = many(strict=True)
    came(pools, "prod/a", "one")
    came(pools, "theirs/b")
    pools.pool_went("prod", "a")
    assert "are called 'b': 1; a namespace has to be said" in taken(pools, said("b"))
    for request in (said(), said(authority="one.prod:9002"), said("prod/a")):
        assert taken(pools, request).startswith(("the gateway does not say", "there is no pool"))
    assert taken(pools, said("theirs/b")) == "theirs/b"


async def test_a_request_header_counts_only_where_it_is_trusted() -> None:
    theirs = {POOL_HEADER: "prod/b"}
    pools = many("prod/a", "prod/b")
    assert taken(pools, said("prod/a", headers=theirs)) == "prod/a"
    assert "does not say which" in taken(pools, said(headers=theirs))
    trusting = many("prod/a", "prod/b", from_header=True)
    assert taken(trusting, said(headers=theirs)) == "prod/b"
    assert taken(trusting, said("prod/a", headers=theirs)) == "prod/a"  # the gateway knows better


async def test_streams_of_answers_alone_find_their_pool_too() -> None:
    pools = many("prod/a", "prod/b", from_header=True)
    assert isinstance(pools.open_answer(pool="prod/a"), RequestCall)
    call = pools.open_answer()
    assert not isinstance(call, RequestCall)
    call.end(Ending.NATURAL, Report())
    assert len(pools._services.refusals) == 0  # nobody was told anything


async def test_a_storm_for_a_pool_that_is_gone_costs_the_others_little() -> None:
    pools = many(*(f"team-{i}/model-pool-{i}" for i in range(300)))
    looks = 0

    class Counting(str):
        """Each look for what is near compares with every pool's name."""

        def __len__(self) -> int:
            nonlocal looks
            looks += 1
            return super().__len__()

    pools._by_key = {Counting(key): pool for key, pool in pools._by_key.items()}
    taken(pools, said("team-7/model-pool-gone"))
    first = looks
    assert first > 0
    for i in range(50):
        taken(pools, said(f"team-{i}/made-up"))
        taken(pools, said("team-7/model-pool-gone"))
    assert looks < 3 * first  # one look a second, however many requests and names


async def test_the_service_that_a_pool_names_may_change() -> None:
    pools = many("prod/other")
    came(pools, "prod/a", "one")
    spec = PoolSpec("prod", "a", "app=x", (1,), picker_service="one")
    pools.pool_changed(replace(spec, picker_service="two"))
    assert taken(pools, said(authority="two.prod")) == "prod/a"
    assert "does not say" in taken(pools, said(authority="one.prod"))
    pools.pool_changed(replace(spec, picker_service=""))
    assert "does not say" in taken(pools, said(authority="two.prod"))
    assert pools._by_service == {}


async def test_a_pool_that_comes_back_begins_anew() -> None:
    pools = many("prod/a", "prod/b")
    before = pools.by_key["prod/a"]
    open_call = pools.open(said("prod/a"))
    pools.pool_went("prod", "a")
    metrics = pools._services.metrics
    assert page(metrics).values("epp_config_generation", name="prod/a") == []
    verdict = open_call.decide(BODY)
    assert isinstance(verdict, Answer)
    assert verdict.status == 503
    open_call.end(Ending.NATURAL, Report())
    came(pools, "prod/a")
    assert pools.by_key["prod/a"] is not before
    assert taken(pools, said("prod/b")) == "prod/b"
    assert page(metrics).value("epp_config_generation", name="prod/a") == 1


def folder_with(path: Path, name: str, text: str) -> Path:
    path.mkdir(exist_ok=True)
    (path / name).write_text(HEADER + text)
    return path


async def test_the_default_stands_in_for_what_cannot_be_put_into_force(tmp_path: Path) -> None:
    own = f"epp: {{trust: {{objective: secret, secret: {{header: x-s, file: {tmp_path}/none}}}}}}\n"
    configs = PoolConfigs(PLAIN, folder_with(tmp_path / "f", "prod.a.yaml", own), plugin_types=TYPES)
    pools = Pools(services(), configs)
    came(pools, "prod/a")
    assert taken(pools, said("prod/a")) == "prod/a"
    watch = pools.by_key["prod/a"].config
    assert watch is not None
    assert watch.loaded.source == "c"
    assert "cannot be read" in watch.last_error
    (tmp_path / "none").write_text("hidden")
    assert watch.offer(Text("own", HEADER + own))  # as it is tried again later
    assert watch.last_error == ""
    pools.pool_went("prod", "a")


async def test_a_pool_without_any_configuration_leaves_nothing_behind(tmp_path: Path) -> None:
    own = f"epp: {{trust: {{objective: secret, secret: {{header: x-s, file: {tmp_path}/none}}}}}}\n"
    pools = many(default=Text("c", HEADER + own))
    with pytest.raises(ValueError, match="cannot be read"):
        came(pools, "prod/a")
    assert list(pools) == []
    assert pools._services.scraper._pools == {}
    assert page(pools._services.metrics).values("epp_config_generation", name="prod/a") == []
    (tmp_path / "none").write_text("hidden")
    came(pools, "prod/a")
    assert [pool.label for pool in pools] == ["prod/a"]
    pools.pool_went("prod", "a")


@pytest.mark.parametrize(("group", "ready"), [(POOL_GROUP, False), (LEGACY_POOL_GROUP, True), ("", True)])
async def test_only_an_object_that_could_say_so_says_that_its_servers_speak_http(
    group: str, ready: bool
) -> None:
    grpc = "plugins:\n- {type: random-picker}\n- {type: vllmgrpc-parser}\n"
    chosen = "requestHandler: {parsers: [{pluginRef: vllmgrpc-parser}]}\n"
    configs = PoolConfigs(Text("c", HEADER + grpc + chosen), plugin_types=TYPES)
    pool = open_pool("a", configs.of("", "a"), services())
    OnePool(pool).pool_came(PoolSpec("prod", "a", "app=x", (1,), group=group)).set_endpoints(())
    assert (not pool.missing()) is ready
    pool.close()


SPACES, NAMES, SERVICES = ("prod", "test"), ("a", "b", "c"), ("", "one", "two")
KEYS = st.tuples(st.sampled_from(SPACES), st.sampled_from(NAMES))


class History(RuleBasedStateMachine):
    """Pools come, change and go in any order; the model is a table of the Services that they name."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = many()
        self.model: dict[tuple[str, str], str] = {}

    @rule(key=KEYS, service=st.sampled_from(SERVICES))
    def put(self, key: tuple[str, str], service: str) -> None:
        spec = PoolSpec(*key, "app=x", (1,), picker_service=service)
        (self.pools.pool_changed if key in self.model else self.pools.pool_came)(spec)
        self.model[key] = service

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        self.pools.pool_went(*key)
        del self.model[key]

    @invariant()
    def every_way_finds_what_the_model_has(self) -> None:
        assert {pool.label for pool in self.pools} == {"/".join(key) for key in self.model}
        only = {"/".join(key) for key in self.model} if len(self.model) == 1 else set()
        for space in SPACES:
            for name in NAMES:
                there = {f"{space}/{name}"} if (space, name) in self.model else set()
                assert self.found(said(f"{space}/{name}")) == there
            for service in SERVICES[1:]:
                named = {
                    "/".join(key) for key, one in self.model.items() if (key[0], one) == (space, service)
                }
                assert self.found(said(authority=f"{service}.{space}:9002")) == (
                    named if len(named) == 1 else only
                )
        for name in NAMES:
            called = {"/".join(key) for key in self.model if key[1] == name}
            assert self.found(said(name)) == (called if len(called) == 1 else set())
        assert self.found(said()) == only

    def found(self, request: RequestHead) -> set[str]:
        call = self.pools.open(request)
        labels = {pool.label: pool for pool in self.pools}
        if not isinstance(call, RequestCall):
            return set()
        return {label for label, pool in labels.items() if call._d is pool.generation.director}

    def teardown(self) -> None:
        for key in self.model:
            self.pools.pool_went(*key)
        pools = self.pools
        assert not any((pools._by_name, pools._by_service, pools._specs, pools._configs._watches))
        assert pools._services.scraper._pools == {}


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
