"""The list of models over pools: what stands in it, and the listener, asked over real connections."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from epp.datalayer.rewrites import Rewrites
from epp.domain.rewrite import Rewrite, RewriteRule, RewriteTarget
from epp.web.modellist import MAX_MODELS, PoolModels, list_models
from epp.web.models import REFRESH_S, ModelsServer
from epp.web.tls import ServerTls
from tests.builders import snapshot
from tests.unit.web.certificates import write_pair

CREATED = 1_767_225_600


def pool(name: str, *served: Sequence[str] | None, rules: Sequence[RewriteRule] = ()) -> PoolModels:
    rewrites = Rewrites()
    rewrites.replace([Rewrite("r", tuple(rules))] if rules else [])
    return PoolModels(name, snapshot(len(served), models=list(served)), rewrites)


def rule(*models: str, **shares: int) -> RewriteRule:
    return RewriteRule(models, tuple(RewriteTarget(model, weight) for model, weight in shares.items()))


def told(*pools: PoolModels) -> dict[str, dict[str, tuple[int, int]]]:
    """By model and pool: endpoints, and of how many."""
    return {
        model.id: {one.name: (one.endpoints, one.of) for one in model.pools}
        for model in list_models(pools, CREATED).values()
    }


def test_what_endpoints_serve() -> None:
    pools = pool("prod/b", ["base", "adapter"], ["base"], None), pool("prod/a", ["base"])
    assert told(*pools) == {
        "adapter": {"prod/b": (1, 3)},
        "base": {"prod/a": (1, 1), "prod/b": (2, 3)},
    }
    assert list(told(*pools)) == ["adapter", "base"], "sorted"
    assert told() == {}
    assert told(pool("empty")) == {}


def test_what_rewrites_accept() -> None:
    one = pool("p", ["v1"], ["v1", "v2"], rules=[rule("chat", v1=90, v2=10), rule("alias", v2=1)])
    assert told(one) == {
        "v1": {"p": (2, 2)},
        "v2": {"p": (1, 2)},
        "chat": {"p": (2, 2)},
        "alias": {"p": (1, 2)},
    }
    models = list_models([one], CREATED)
    assert models["chat"].pools[0].targets == {"v1": 90, "v2": 10}
    assert [(name, models[name].root) for name in ("chat", "alias", "v1")] == [
        ("chat", None), ("alias", "v2"), ("v1", "v1"),
    ]  # fmt: skip


def test_a_name_whose_targets_nobody_serves_is_not_listed() -> None:
    rules = [rule("alias", gone=1)]
    assert told(pool("p", ["v1"], rules=rules)) == {"v1": {"p": (1, 1)}}
    assert told(pool("p", ["v1"], None, rules=rules))["alias"] == {"p": (0, 2)}, "perhaps the second"
    assert told(pool("p", rules=rules)) == {"alias": {"p": (0, 0)}}, "scaled to nothing for now"


def test_a_rewrite_stands_before_what_is_served() -> None:
    """Whoever asks for v1 gets v2, by an exact rule or by a generic one."""
    for one in (rule("v1", v2=1), rule(v2=1)):
        models = list_models([pool("p", ["v1"], ["v1"], ["v2"], rules=[one])], CREATED)
        assert models["v1"].root == "v2"
        assert (models["v1"].pools[0].endpoints, models["v1"].pools[0].targets) == (1, {"v2": 1})
        assert models["v2"].root == "v2"
        assert models["v2"].pools[0].targets == {}


def test_a_name_that_stands_for_different_models_in_two_pools_has_no_root() -> None:
    models = list_models([pool("a", ["v1"], rules=[rule("m", v1=1)]), pool("b", ["m"])], CREATED)
    assert models["m"].root is None
    assert len(models["m"].pools) == 2


def test_the_list_is_bounded() -> None:
    names = [f"m{number}" for number in range(MAX_MODELS + 5)]
    assert len(list_models([pool("p", names), pool("q", names)], CREATED)) == MAX_MODELS


class Pools:
    def __init__(self, *pools: PoolModels) -> None:
        self.pools: Sequence[PoolModels] = pools
        self.asked = 0
        self.now = 100.0

    def models_of(self) -> Iterable[PoolModels]:
        self.asked += 1
        return self.pools


@asynccontextmanager
async def serving(pools: Any, **more: Any) -> AsyncIterator[aiohttp.ClientSession]:
    server = ModelsServer("127.0.0.1", 0, pools, clock=lambda: pools.now, started_at=CREATED, **more)
    await server.start()
    scheme = "https" if "tls" in more else "http"
    try:
        async with aiohttp.ClientSession(f"{scheme}://127.0.0.1:{server.port}") as client:
            yield client
    finally:
        await server.stop()


async def get(client: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with client.get(path) as answer:
        assert (answer.status, answer.content_type) == (status, "application/json")
        return await answer.json()


async def test_the_list_as_clients_know_it() -> None:
    async with serving(Pools(pool("prod/p", ["org/base"], ["org/base"]))) as client:
        entry = {
            "id": "org/base", "object": "model", "created": CREATED, "owned_by": "epp", "root": "org/base",
            "parent": None, "pools": [{"name": "prod/p", "endpoints": 2, "of": 2}],
        }  # fmt: skip
        assert await get(client, "/v1/models") == {"object": "list", "data": [entry]}
        assert await get(client, "/v1/models/org/base") == entry
        assert await get(client, "/v1/models/org%2Fbase") == entry
        async with client.head("/v1/models") as answer:
            assert answer.status == 200
            assert int(answer.headers["content-length"]) > 100


@pytest.mark.parametrize("prefix", ["/pools/prod/a", "/pools/a", "?pool=prod/a", "?pool=a"])
async def test_one_pool_alone(prefix: str) -> None:
    pools = Pools(pool("prod/a", ["x", "both"]), pool("prod/b", ["y", "both"]))
    async with serving(pools) as client:
        way, query = (prefix, "") if prefix[0] == "/" else ("", prefix)
        said = await get(client, f"{way}/v1/models{query}")
        assert [model["id"] for model in said["data"]] == ["both", "x"]
        both = await get(client, f"{way}/v1/models/both{query}")
        assert [one["name"] for one in both["pools"]] == ["prod/a"]
        missing = await get(client, f"{way}/v1/models/y{query}", 404)
        assert "in the pool" in missing["error"]["message"]


async def test_what_is_not_there() -> None:
    async with serving(Pools(pool("p", ["x"]))) as client:
        error = (await get(client, "/v1/models/gone", 404))["error"]
        assert error == {
            "message": "The model 'gone' does not exist.", "type": "invalid_request_error",
            "param": "model", "code": "model_not_found",
        }  # fmt: skip
        assert (await get(client, "/v1/models?pool=q", 404))["error"]["param"] == "pool"
        assert (await get(client, "/pools/q/v1/models", 404))["error"]["param"] == "pool"
        await get(client, "/v1/chat/completions", 404)
        long = await get(client, f"/v1/models/{'x' * 5000}", 404)
        assert len(long["error"]["message"]) < 300
        async with client.post("/v1/models", data=b"{}") as answer:
            assert answer.status == 405
            assert answer.headers["allow"] == "GET,HEAD"
            assert (await answer.json())["error"]["message"] == "There is no POST /v1/models."


async def test_the_list_is_made_anew_once_a_second() -> None:
    pools = Pools(pool("p", ["x"]))
    async with serving(pools) as client:
        for _ in range(5):
            await get(client, "/v1/models")
        assert pools.asked == 1
        pools.pools = (pool("q", ["y"]),)
        await get(client, "/v1/models/x")
        pools.now += REFRESH_S
        await get(client, "/v1/models/x", 404)
        await get(client, "/v1/models/y?pool=q")
        assert pools.asked == 2


async def test_rules_that_change_are_seen() -> None:
    one = pool("p", ["x"])
    pools = Pools(one)
    async with serving(pools) as client:
        for way in ("/v1/models", "/pools/p/v1/models"):
            assert [model["id"] for model in (await get(client, way))["data"]] == ["x"]
        one.rewrites.replace([Rewrite("r", (rule("alias", x=1),))])
        pools.now += REFRESH_S
        for way in ("/v1/models", "/pools/p/v1/models", "/v1/models?pool=p"):
            assert [model["id"] for model in (await get(client, way))["data"]] == ["alias", "x"]


class Broken:
    now = 1.0

    def models_of(self) -> Iterable[PoolModels]:
        raise RuntimeError("on purpose")


async def test_a_bug_is_counted_and_answered() -> None:
    counted: list[str] = []
    async with serving(Broken(), failed=counted.append) as client:
        assert (await get(client, "/v1/models", 500))["error"]["type"] == "server_error"
    assert counted == ["models"]


async def test_it_may_be_asked_over_tls(tmp_path: Path) -> None:
    write_pair(tmp_path, "one")
    trusted = ssl.create_default_context(cafile=tmp_path / "tls.crt")
    trusted.check_hostname = False
    async with (
        serving(Pools(pool("p", ["x"])), tls=ServerTls(tmp_path)) as client,
        client.get("/v1/models/x", ssl=trusted) as answer,
    ):
        assert (await answer.json())["id"] == "x"


async def test_a_taken_port_is_told() -> None:
    first = ModelsServer("127.0.0.1", 0, Pools())
    await first.start()
    second = ModelsServer("127.0.0.1", first.port, Pools())
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await first.stop()
    await second.stop()
