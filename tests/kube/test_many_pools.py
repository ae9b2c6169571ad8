"""One process that serves every pool of a namespace, behind a real Envoy that says which one is meant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from bench.stack import envoy, fetch, free_port
from tests.envoy import routes

from .load import CHAT, chat
from .rig import ApiServer, objective, pool, until
from .scene import Picker, Scene, scene


@pytest.fixture
async def cluster(apiserver: ApiServer, tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(apiserver, tmp_path) as made:
        yield made


async def gateway(cluster: Scene, picker: Picker, ways: dict[str, routes.Filters]) -> aiohttp.ClientSession:
    """An Envoy with a route for each way, at `/way/...`."""
    port, admin = free_port(), free_port()
    filled = {
        "admin": admin, "listener": port, "listener_address": "127.0.0.1", "epp": picker.served.grpc,
        "epp_health": picker.served.health, "control_header": "x-nothing",
    }  # fmt: skip
    config = routes.configuration(
        "standalone.yaml", cluster.folder, {f"/{way}/": filters for way, filters in ways.items()}
    )
    running = await asyncio.to_thread(envoy, config, filled, cluster.folder)
    cluster.live.callback(running.stop)
    client = aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(30))
    cluster.live.push_async_callback(client.close)
    stats = f"http://127.0.0.1:{admin}/stats/prometheus?filter=membership_healthy"
    wanted = 'envoy_cluster_membership_healthy{envoy_cluster_name="epp"} 1'
    await until(lambda: wanted in fetch(stats), "Envoy knows the picker")
    return client


async def test_each_way_of_saying_it_reaches_its_pool(cluster: Scene) -> None:
    api, namespace = cluster.api, cluster.namespace
    for name in ("one", "two"):
        labels = {"app": name}
        api.create(pool(namespace, name, labels, ports=[cluster.port], picker=f"{name}-picker"))
        await cluster.pod(f"{name}-a", labels)
        await cluster.pod(f"{name}-b", labels)
    picker = await cluster.picker("--all-pools", "--transport", "native")
    for name in ("one", "two"):
        await until(
            lambda name=name: len(picker.endpoints(f"{namespace}/{name}")) == 2,  # type: ignore[misc]
            f"endpoints of {name}",
        )
    client = await gateway(
        cluster,
        picker,
        {
            "call-one": routes.in_the_call(f"{namespace}/one"),
            "call-two": routes.in_the_call("two"),
            "metadata-two": routes.in_dynamic_metadata(f"{namespace}/two"),
            "service-one": routes.by_authority(f"one-picker.{namespace}.svc.cluster.local:9002"),
            "service-two": routes.by_authority(f"two-picker.{namespace}:9002"),
            "istio-two": routes.by_authority(f"outbound|9002||two-picker.{namespace}.svc.cluster.local"),
            "call-tow": routes.in_the_call(f"{namespace}/tow"),
        },
    )
    for way in ("call-one", "call-two", "metadata-two", "service-one", "service-two", "istio-two"):
        before = {name: len(engine.seen) for name, engine in cluster.engines.items()}
        for i in range(8):
            async with client.post(f"/{way}{CHAT}", json=chat(f"{way} {i}")) as answer:
                assert answer.status == 200, await answer.text()
        got = {name for name, engine in cluster.engines.items() if len(engine.seen) > before[name]}
        wanted = way.rpartition("-")[2]
        assert got
        assert got <= {f"{wanted}-a", f"{wanted}-b"}  # all to one of two has a chance of 1 in 128
    # None of them is said, or one that is not there.
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 503
        assert (await answer.json())["error"]["code"] == "pool_not_found"
    async with client.post(f"/call-tow{CHAT}", json=chat()) as answer:
        assert answer.status == 503
        assert f"{namespace}/two" in (await answer.json())["error"]["message"]
        assert answer.headers["retry-after"]
    # A client cannot choose by the header.
    headers = {routes.POOL: f"{namespace}/two"}
    before = len(cluster.engines["two-a"].seen) + len(cluster.engines["two-b"].seen)
    async with client.post(f"/call-one{CHAT}", json=chat(), headers=headers) as answer:
        assert answer.status == 200
    assert len(cluster.engines["two-a"].seen) + len(cluster.engines["two-b"].seen) == before


async def test_pools_come_and_go_each_with_its_own_configuration_and_objectives(cluster: Scene) -> None:
    api, namespace = cluster.api, cluster.namespace
    folder = cluster.folder / "configs"
    folder.mkdir()
    own = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: random-picker}]\n"
    (folder / f"{namespace}.two.yaml").write_text(own)
    (folder / f"{namespace}.bad.yaml").write_text("kind: [")
    models = free_port()
    picker = await cluster.picker(
        "--all-pools", "--pool-config-dir", str(folder), "--models-port", str(models), ready=False
    )

    def pools() -> dict[str, object]:
        return dict(json.loads(picker.page("/debug/pools"))["pools"])

    assert pools() == {}
    await until(lambda: picker.readiness()["status"] == "ready", "ready without any pool")
    for name in ("one", "two", "bad"):
        api.create(pool(namespace, name, {"app": name}, ports=[cluster.port]))
        await cluster.pod(f"{name}-a", {"app": name})
    api.create(objective(namespace, "batch", "one", -5))
    label = f"{namespace}/two"
    await until(lambda: len(pools()) == 3 and bool(picker.endpoints(label)), "three pools")
    said = {name.partition("/")[2]: dict(one)["config"] for name, one in pools().items()}  # type: ignore[call-overload]
    assert "two.yaml" in said["two"]["source"]
    assert "preset" in said["one"]["source"]
    # What is wrong is said, and the common configuration stands in.
    assert "preset" in said["bad"]["source"]
    assert said["bad"]["error"]
    (folder / f"{namespace}.two.yaml").write_text(own + "# changed\n")
    await until(lambda: dict(pools()[label])["config"]["generation"] == 2, "its own reload")  # type: ignore[call-overload]
    assert dict(pools()[f"{namespace}/one"])["config"]["generation"] == 1  # type: ignore[call-overload]
    await until(
        lambda: json.loads(fetch(f"http://127.0.0.1:{models}/v1/models"))["data"] != [], "models are listed"
    )
    listed = json.loads(fetch(f"http://127.0.0.1:{models}/v1/models"))["data"]
    assert {row["id"] for row in listed} == {"base", "another-model"}
    assert f'name="{label}"' in picker.page("/metrics")
    api.delete(pool(namespace, "two", {}))
    await until(lambda: label not in pools(), "the pool is gone")
    assert f'name="{label}"' not in picker.page("/metrics")
    assert len(picker.endpoints(f"{namespace}/one")) == 1
