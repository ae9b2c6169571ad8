"""One pool of a real cluster, behind a real Envoy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from .load import CHAT, Load, chat
from .rig import USERS, ApiServer, objective, pool, rewrite, until
from .scene import LABELS, Scene, fetch_any, scene


@pytest.fixture
async def cluster(apiserver: ApiServer, tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(apiserver, tmp_path) as made:
        yield made


async def test_pods_come_and_go_and_no_request_goes_to_one_that_is_gone(cluster: Scene) -> None:
    api, namespace = cluster.api, cluster.namespace
    api.create(pool(namespace, "p", LABELS, ports=[cluster.port]))
    for name in ("a", "b", "c"):
        await cluster.pod(name)
    await cluster.pod("stranger", {"app": "another"})
    await cluster.pod("starting", ready=False)
    picker = await cluster.picker("--pool-name", "p")
    await until(lambda: len(picker.endpoints()) == 3, "three endpoints")
    client = await cluster.gateway(picker)
    async with Load(client) as load:
        await load.more()
        for round_, grace_s in enumerate((0, 30, 0, 30)):
            going, coming = "abcdef"[round_], "defg"[round_]
            engine = cluster.engines[going]
            # With a grace period the pod stays, marked as ending, and would still answer.
            await cluster.delete(going, grace_s=grace_s)
            await until(lambda name=going: f"{name}-rank-0" not in picker.endpoints(), f"{going} is gone")  # type: ignore[misc]
            await load.turn()  # those that were let in before
            seen = len(engine.seen)
            await load.more()
            assert len(engine.seen) == seen
            arrived = await cluster.pod(coming)
            async with asyncio.timeout(20):
                await arrived.arrived.wait()
        api.pod_status(cluster.pods["g"], ip=cluster.engines["g"].host, ready=False)
        await until(lambda: "g-rank-0" not in picker.endpoints(), "g is not ready any more")
        api.patch(cluster.pods["f"], {"metadata": {"labels": {"app": "another"}}})
        await until(lambda: "f-rank-0" not in picker.endpoints(), "f is another's")
        await load.more()
    assert set(load.statuses) == {200}
    assert not cluster.engines["stranger"].seen
    assert not cluster.engines["starting"].seen


async def test_objectives_and_rewrites_of_the_cluster_decide(cluster: Scene) -> None:
    api, namespace = cluster.api, cluster.namespace
    api.create(pool(namespace, "p", LABELS, ports=[cluster.port]))
    await cluster.pod("a")
    exact = {
        "matches": [{"model": {"type": "Exact", "value": "chat"}}],
        "targets": [{"modelRewrite": "base"}],
    }
    api.create(rewrite(namespace, "names", "p", [exact]))
    api.create(objective(namespace, "batch", "p", -1))
    api.create(rewrite(namespace, "others", "another-pool", [{**exact, "targets": [{"modelRewrite": "x"}]}]))
    picker = await cluster.picker("--pool-name", "p")
    await until(lambda: len(picker.endpoints()) == 1, "an endpoint")
    client = await cluster.gateway(picker)
    engine = cluster.engines["a"]
    async with client.post(CHAT, json=chat(model="chat")) as answer:
        assert (answer.status, (await answer.json())["model"]) == (200, "chat")
    assert json.loads(engine.seen[-1].body)["model"] == "base"
    headers = {"x-llm-d-inference-objective": "batch"}
    async with client.post(CHAT, json=chat(), headers=headers) as answer:
        assert answer.status == 200
    assert 'priority="-1"' in picker.page("/metrics")
    # Both are followed while it runs.
    api.patch(objective(namespace, "batch", "p", -1), {"spec": {"priority": 7}})
    api.delete(rewrite(namespace, "names", "p", [exact]))
    async with asyncio.timeout(20):
        while 'priority="7"' not in picker.page("/metrics") or engine.seen[-1].body.count(b'"chat"') == 0:
            async with client.post(CHAT, json=chat(model="chat"), headers=headers) as answer:
                await answer.read()


async def test_routing_goes_on_while_the_api_server_is_away_and_catches_up(
    private_apiserver: Callable[[], ApiServer], tmp_path: Path
) -> None:
    api = await asyncio.to_thread(private_apiserver)
    await asyncio.to_thread(api.inference_crds)
    async with scene(api, tmp_path) as cluster:
        api.create(pool(cluster.namespace, "p", LABELS, ports=[cluster.port]))
        for name in ("a", "b", "c"):
            await cluster.pod(name)
        picker = await cluster.picker("--pool-name", "p")
        await until(lambda: len(picker.endpoints()) == 3, "three endpoints")
        client = await cluster.gateway(picker)
        async with Load(client) as load:
            await load.more()
            api.kill()
            await load.more(300)
            assert picker.readiness()["status"] == "ready"
            assert len(picker.endpoints()) == 3
            said = "routing goes on with what is known"
            await until(lambda: any(said in line for line in picker.said()), "the log says so")
            # Gone for good while nobody could say so; its engine still answers.
            await asyncio.to_thread(api.etcd_delete, f"/registry/pods/{cluster.namespace}/b")
            await asyncio.to_thread(api.restart)
            await until(lambda: picker.endpoints() == {"a-rank-0", "c-rank-0"}, "it has caught up")
            await load.turn()
            seen = len(cluster.engines["b"].seen)
            await load.more()
            assert len(cluster.engines["b"].seen) == seen
            arrived = await cluster.pod("d")
            async with asyncio.timeout(20):
                await arrived.arrived.wait()
        assert set(load.statuses) == {200}


async def test_a_right_that_is_taken_away_is_named_and_serving_goes_on(cluster: Scene) -> None:
    api, namespace, user = cluster.api, cluster.namespace, USERS[2]
    look = ["get", "list", "watch"]
    rights = [
        {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": look},
        {
            "apiGroups": ["llm-d.ai", "inference.networking.x-k8s.io"],
            "resources": ["inferenceobjectives", "inferencemodelrewrites"],
            "verbs": look,
        },
    ]
    api.grant(user, namespace, rights)
    pods = api.grant(user, namespace, [{"apiGroups": [""], "resources": ["pods"], "verbs": look}])
    api.create(pool(namespace, "p", LABELS, ports=[cluster.port]))
    await cluster.pod("a")
    picker = await cluster.picker("--pool-name", "p", user=user)
    await until(lambda: len(picker.endpoints()) == 1, "an endpoint")
    client = await cluster.gateway(picker)
    api.revoke(pods)
    # Watches that run are not cut by that: the next pod is still seen, or its watch ends and is refused.
    late = await cluster.picker("--pool-name", "p", user=user, ready=False)
    await until(lambda: "pods" in str(late.readiness()["missing"]), "it says what it may not")
    missing = str(late.readiness()["missing"])
    assert "list" in missing
    assert namespace in missing
    async with client.post(CHAT, json=chat()) as answer:
        assert answer.status == 200
    api.grant(user, namespace, [{"apiGroups": [""], "resources": ["pods"], "verbs": look}])
    await until(lambda: late.readiness()["status"] == "ready", "it is ready once it may", patience_s=60)


async def test_metrics_are_for_those_whom_the_cluster_lets(cluster: Scene) -> None:
    api, namespace = cluster.api, cluster.namespace
    api.create(pool(namespace, "p", LABELS, ports=[cluster.port]))
    await cluster.pod("a")
    picker = await cluster.picker("--pool-name", "p", "--metrics-endpoint-auth=true")
    url = f"http://127.0.0.1:{picker.served.metrics}/metrics"
    assert fetch_any(url)[0] == 401
    assert fetch_any(url, "made-up")[0] == 401
    assert fetch_any(url, f"{USERS[0]}-token")[0] == 403
    assert fetch_any(url, "admin-token")[0] == 200
    assert picker.readiness()["status"] == "ready"  # probes need no token


async def test_only_the_leader_is_ready_and_open_answers_outlive_the_lead(cluster: Scene) -> None:
    api, namespace = cluster.api, cluster.namespace
    api.create(pool(namespace, "p", LABELS, ports=[cluster.port]))
    await cluster.pod("a")
    engine = cluster.engines["a"]
    first = await cluster.picker("--pool-name", "p", "--ha-enable-leader-election")
    second = await cluster.picker("--pool-name", "p", "--ha-enable-leader-election", ready=False)
    await until(lambda: "another replica leads" in str(second.readiness()["missing"]), "the other leads")
    client = await cluster.gateway(first)
    async with client.post(CHAT, json={**chat(), "stream": True}, headers={"x-act": "stream"}) as answer:
        assert answer.status == 200
        first.served.child.pause()  # it cannot renew, and does not know it
        await until(lambda: second.readiness()["status"] == "ready", "the second leads", patience_s=40)
        first.served.child.resume()
        await until(lambda: first.readiness()["status"] != "ready", "the first has seen that")
        engine.go.set()
        assert b"[DONE]" in await answer.read()
    # Who is told to stop gives the lead back at once.
    second.served.child.stop()
    await until(lambda: first.readiness()["status"] == "ready", "the first leads again", patience_s=10)
