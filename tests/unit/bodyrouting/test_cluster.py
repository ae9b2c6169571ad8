"""The service's side towards a cluster, over HTTP to a small API server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from epp.bodyrouting.basemodels import BaseModels
from epp.bodyrouting.cluster import ModelCluster, is_known
from tests.fakes.kubeapi import FakeKubeApi


def test_a_cluster_is_meant_in_a_pod_and_where_a_file_is_named() -> None:
    assert not is_known(None, {"HOME": "/root", "KUBECONFIG": ""})
    assert is_known(Path("config"), {})
    assert is_known(None, {"KUBECONFIG": "config"})
    assert is_known(None, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})


async def test_base_models_of_a_cluster(tmp_path: Path) -> None:
    async with FakeKubeApi(plural="configmaps") as api, asyncio.timeout(20):
        api.put("n/a", data={"baseModel": "qwen", "adapters": "- foo\n"})
        api.put("other/b", data={"baseModel": "llama"})
        models = BaseModels()
        config = api.kubeconfig(tmp_path / "config")
        cluster = ModelCluster(config, "n", {}, models)
        assert cluster.missing() == "the ConfigMaps of base models in namespace n are not listed yet"
        assert (await cluster.review("", "get", "/metrics")).status == 503
        api.forbidden = {"list"}
        await cluster.open()
        following = asyncio.ensure_future(cluster.run())
        while "Forbidden" not in cluster.missing():
            await asyncio.sleep(0.01)
        api.forbidden = set()
        while cluster.missing():
            await asyncio.sleep(0.01)
        assert [models.of(name) for name in ("foo", "qwen", "llama")] == ["qwen", "qwen", ""]
        api.put("n/a", data={"baseModel": "qwen", "adapters": "- bar\n"})
        while not models.of("bar"):
            await asyncio.sleep(0.01)
        api.drop("n/a")
        while models.of("bar"):
            await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.wait([following])
        await cluster.close()
    path, query = api.requests[0]
    assert path == "/api/v1/namespaces/n/configmaps"
    assert query["labelSelector"] == "inference.networking.k8s.io/bbr-managed=true"


async def test_where_only_readers_are_reviewed_nothing_is_followed(tmp_path: Path) -> None:
    async with FakeKubeApi(plural="configmaps") as api:
        cluster = ModelCluster(api.kubeconfig(tmp_path / "config"), None, {}, None)
        await cluster.open()
        assert cluster.missing() == ""
        await cluster.run()
        await cluster.close()
    assert api.requests == []
