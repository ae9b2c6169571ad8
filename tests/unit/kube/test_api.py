"""The connection: what it asks, what it makes of answers, and that nothing there is without a limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from epp.kube.api import MAX_ANSWER_BYTES, MAX_LINE_BYTES, SILENT, Kube, KubeError
from epp.kube.credentials import KUBECONFIG_AGE_S, KubeConfigError
from epp.kube.resource import PODS, Resource
from tests.fakes.kubeapi import Cut, FakeKubeApi, Hang, Refuse, Say, Trickle

PATH = "/api/v1/namespaces/one/pods"


@pytest.fixture
async def server() -> AsyncIterator[FakeKubeApi]:
    async with FakeKubeApi() as running:
        yield running


@pytest.fixture
async def kube(server: FakeKubeApi, tmp_path: Path) -> AsyncIterator[Kube]:
    opened = await Kube.open(server.kubeconfig(tmp_path / "config", namespace="shop"), {})
    yield opened
    await opened.close()


async def watch_to_the_end(kube: Kube, *, timeout_s: float = 30, silence_s: float = 30) -> None:
    params = {"watch": 1, "resourceVersion": "0"}
    async with kube.stream(PATH, params, timeout_s=timeout_s, silence_s=silence_s) as lines:
        async for _ in lines:
            pass


def test_paths() -> None:
    pools = Resource("inference.networking.k8s.io", "v1", "inferencepools", "InferencePool")
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("a") == "/api/v1/namespaces/a/pods"
    assert pools.path("a", "p") == "/apis/inference.networking.k8s.io/v1/namespaces/a/inferencepools/p"
    assert pools.api_version == "inference.networking.k8s.io/v1"
    assert (str(PODS), str(pools)) == ("pods/v1", "inferencepools.inference.networking.k8s.io/v1")


async def test_what_is_asked(server: FakeKubeApi, kube: Kube) -> None:
    server.put("one/a")
    found = await kube.get(PATH, params={"labelSelector": "a in (b, c)", "limit": 5})
    assert [item["metadata"]["name"] for item in found["items"]] == ["a"]
    assert server.requests == [(PATH, {"labelSelector": "a in (b, c)", "limit": "5"})]
    assert server.tokens == ["t"]
    assert (kube.namespace, kube.server) == ("shop", f"http://127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    ("fault", "status", "reason", "words"),
    [
        (Refuse(403), 403, "Fault", "by the fake"),
        (Refuse(502, text="<h1>Bad gateway</h1>"), 502, "Bad Gateway", "<h1>Bad gateway</h1>"),
        (Refuse(500, text="x" * 100_000), 0, "TooLarge", "more than 64 KiB"),
        (Cut(-1), 0, "Disconnected", "disconnected"),
        (Cut(5), 0, "Disconnected", "broke within an answer"),
    ],
)
async def test_failures_say_what_they_are(
    server: FakeKubeApi, kube: Kube, fault: Refuse | Cut, status: int, reason: str, words: str
) -> None:
    server.faults.extend([fault, fault])  # a connection that broke unused is tried once more
    with pytest.raises(KubeError) as failed:
        await kube.get(PATH)
    assert (failed.value.status, failed.value.reason) == (status, reason)
    assert words in failed.value.message


@pytest.mark.parametrize(("told", "understood"), [(7, 7.0), (0, None), (None, None)])
async def test_a_pause_that_is_asked_for(
    server: FakeKubeApi, kube: Kube, told: int | None, understood: float | None
) -> None:
    server.faults.append(Refuse(429, retry_after_s=told))
    with pytest.raises(KubeError) as failed:
        await kube.get(PATH)
    assert failed.value.retry_after_s == understood


async def test_no_answer_in_time(server: FakeKubeApi, kube: Kube) -> None:
    server.faults.append(Hang())
    with pytest.raises(KubeError, match="Timeout"):
        await kube.fetch("GET", PATH, timeout_s=0.05)


async def test_an_answer_may_not_grow_without_end(server: FakeKubeApi, kube: Kube) -> None:
    server.put("one/a", data="x" * MAX_ANSWER_BYTES)
    with pytest.raises(KubeError, match="TooLarge"):
        await kube.get(PATH)


async def test_an_event_may_not_grow_without_end(server: FakeKubeApi, kube: Kube) -> None:
    server.faults.append(Say(b"x" * (MAX_LINE_BYTES + 1)))
    with pytest.raises(KubeError, match="TooLarge"):
        await watch_to_the_end(kube)


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
async def test_lines_come_whole_however_they_arrive(
    server: FakeKubeApi, kube: Kube, piece_bytes: int
) -> None:
    server.bookmarks = False
    server.faults.append(Trickle(piece_bytes))
    for name in "abc":
        server.put(f"one/{name}", text="ü\n")
    seen = []
    async with kube.stream(PATH, {"watch": 1, "resourceVersion": "0"}, timeout_s=30, silence_s=30) as lines:
        async for line in lines:
            seen.append(yaml.safe_load(line)["object"]["text"])
            if len(seen) == 3:
                break
    assert seen == ["ü\n"] * 3


async def test_a_stream_that_falls_silent_is_noticed(server: FakeKubeApi, kube: Kube) -> None:
    server.bookmarks = False
    server.put("one/a")
    with pytest.raises(KubeError) as failed:
        await watch_to_the_end(kube, silence_s=0.05)
    assert failed.value.reason == SILENT


async def test_a_stream_lasts_no_longer_than_asked(server: FakeKubeApi, kube: Kube) -> None:
    with pytest.raises(KubeError, match="Timeout"):
        await watch_to_the_end(kube, timeout_s=0.05)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_token_that_is_refused_is_read_again_at_once(server: FakeKubeApi, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    kube = await Kube.open(server.kubeconfig(tmp_path / "config", tokenFile=str(token)), {}, clock=Clock())
    server.allowed = {"old"}
    await kube.get(PATH)
    server.allowed = {"new"}
    token.write_text("new")
    # Many at once read it once, and each is tried again.
    await asyncio.gather(*(kube.get(PATH) for _ in range(5)))
    assert server.tokens.count("new") == 5
    token.write_text("wrong")
    server.allowed = {"newer"}
    with pytest.raises(KubeError) as failed:
        await kube.get(PATH)
    assert failed.value.status == 401
    await kube.close()


async def test_an_old_token_is_read_again_before_it_is_refused(server: FakeKubeApi, tmp_path: Path) -> None:
    token, clock = tmp_path / "token", Clock()
    token.write_text("old")
    kube = await Kube.open(server.kubeconfig(tmp_path / "config", tokenFile=str(token)), {}, clock=clock)
    token.write_text("new")
    await kube.get(PATH)
    clock.now += KUBECONFIG_AGE_S
    await kube.get(PATH)
    token.unlink()
    clock.now += KUBECONFIG_AGE_S
    await kube.get(PATH)
    assert server.tokens == ["old", "new", "new"], "a file that is gone leaves what was read last"
    await kube.close()


async def test_the_credentials_of_an_exec_plugin_are_used(server: FakeKubeApi, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    version = "client.authentication.k8s.io/v1"
    told = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": "made"}}
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    plugin.chmod(0o755)
    path = server.kubeconfig(tmp_path / "config")
    config = yaml.safe_load(path.read_text())
    config["users"][0]["user"] = {"exec": {"apiVersion": version, "command": str(plugin)}}
    path.write_text(yaml.safe_dump(config))
    kube = await Kube.open(path, {})
    await kube.get(PATH)
    assert server.tokens == ["made"]
    await kube.close()


async def test_where_the_cluster_is_named(server: FakeKubeApi, tmp_path: Path) -> None:
    home = tmp_path / "home" / ".kube"
    home.mkdir(parents=True)
    for path, namespace in (
        (tmp_path / "flag", "flag"),
        (tmp_path / "env", "env"),
        (home / "config", "home"),
    ):
        server.kubeconfig(path, namespace=namespace)
    environ = {"HOME": str(tmp_path / "home")}
    for kubeconfig, more, namespace in (
        (tmp_path / "flag", {"KUBECONFIG": str(tmp_path / "env")}, "flag"),
        (None, {"KUBECONFIG": f"{tmp_path / 'none'}:{tmp_path / 'env'}"}, "env"),
        (None, {}, "home"),
    ):
        kube = await Kube.open(kubeconfig, {**environ, **more})
        assert kube.namespace == namespace
        await kube.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no kubeconfig file at "),
        ("a: [", "while parsing"),
        ("[]", "is no kubeconfig"),
        ("127.0.0.1 localhost", "is no kubeconfig"),
        ("clusters: []\ncontexts: []\nusers: []\ncurrent-context: x\n", "context"),
    ],
)
async def test_a_kubeconfig_that_is_wrong_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KubeConfigError, match=words) as failed:
        await Kube.open(path, {})
    assert str(path) in str(failed.value)


async def test_without_any_cluster_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(KubeConfigError, match="neither --kubeconfig nor KUBECONFIG"):
        await Kube.open(None, {"HOME": str(tmp_path)})
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    with pytest.raises(KubeConfigError, match=f"service account in {tmp_path}: "):
        await Kube.open(None, environ, account=tmp_path)


async def test_what_fails_in_the_client_itself_is_a_failure_as_any(server: FakeKubeApi, kube: Kube) -> None:
    await kube.get("/api/v1/pods")
    await kube._client.close()  # as when new credentials come while a call is on its way
    with pytest.raises(KubeError, match="Client: RuntimeError: Session is closed"):
        await kube.get("/api/v1/pods")
    with pytest.raises(KubeError, match="Session is closed"):
        await watch_to_the_end(kube)
