"""`epp route-by-model` as a process beside a real API server: the ConfigMaps of base models, and its role."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from bench.stack import BIN, Child, Served, answers, free_port
from epp.bodyrouting.basemodels import read_configmap
from tests.wire import gateway as gw

from .rig import ApiServer, Object, Parts, until
from .scene import fetch_any

RULES = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]
BASE = "X-Gateway-Base-Model-Name"


@pytest.fixture
def router(apiserver: ApiServer, namespace: str, tmp_path: Path) -> Iterator[Served]:
    """As a service account that may do nothing yet; started, not ready."""
    apiserver.service_account(namespace, "router")
    config = apiserver.kubeconfig(token=apiserver.token(namespace, "router"))
    grpc, health, metrics = free_port(), free_port(), free_port()
    argv = [str(BIN / "epp"), "route-by-model", "--kubeconfig", str(config), "--bind-address", "127.0.0.1"]
    argv += ["--secure-serving=false", "--metrics-endpoint-auth=false", "--tracing=false"]
    argv += ["--grpc-port", str(grpc), "--grpc-health-port", str(health), "--metrics-port", str(metrics)]
    child = Child("route-by-model", argv, tmp_path / "router.log", env={"NAMESPACE": namespace})
    try:
        child.wait_for(lambda: answers(f"http://127.0.0.1:{metrics}/healthz"))
        yield Served(child, grpc, health, metrics)
    finally:
        child.stop()


def base_model(namespace: str, name: str, base: str, *adapters: str, managed: str = "true") -> Object:
    labels = {"inference.networking.k8s.io/bbr-managed": managed}
    data = {"baseModel": base, "adapters": "".join(f"- {adapter}\n" for adapter in adapters)}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def missing(router: Served) -> list[str]:
    said = json.loads(fetch_any(f"http://127.0.0.1:{router.metrics}/readyz")[1])
    return [str(reason) for reason in said["missing"]]


async def base_of(router: Served, model: str) -> str:
    """What the header of the base model is set to; empty where it is taken off."""
    async with gw.channel(router.grpc) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers())
        await call.write(gw.request_body(json.dumps({"model": model}).encode(), end=True))
        return gw.set_headers(await call.read()).get(BASE, "")


async def test_base_models_of_a_namespace(apiserver: ApiServer, namespace: str, router: Served) -> None:
    elsewhere = apiserver.namespace()
    apiserver.create(base_model(namespace, "a", "qwen", "foo"))
    apiserver.create(base_model(namespace, "not-ours", "llama", "bar", managed="false"))
    apiserver.create(base_model(elsewhere, "a", "llama", "more"))
    await until(lambda: any("configmaps" in reason for reason in missing(router)), "it says what is missing")
    (reason,) = missing(router)
    assert f"the ConfigMaps of base models in namespace {namespace} are not listed yet" in reason
    granted = apiserver.grant("router", namespace, RULES, account=True)
    await until(lambda: not missing(router), "ready", patience_s=60)
    assert [await base_of(router, name) for name in ("foo", "qwen", "bar", "more")] == [
        "qwen",
        "qwen",
        "",
        "",
    ]
    apiserver.patch(base_model(namespace, "a", "qwen", "foo"), {"data": {"adapters": "- new\n"}})
    await until(lambda: router.metric("epp_base_models") == 2, "two names")
    apiserver.create(base_model(namespace, "b", "mistral", "new-too"))
    await until(lambda: router.metric("epp_base_models") == 4, "four names")
    assert [await base_of(router, name) for name in ("foo", "new", "new-too")] == ["", "qwen", "mistral"]
    apiserver.delete(base_model(namespace, "a", "qwen"))
    await until(lambda: router.metric("epp_base_models") == 2, "two names")
    assert [await base_of(router, name) for name in ("new", "mistral")] == ["", "mistral"]
    apiserver.revoke(granted)
    assert missing(router) == [], "what is known goes on to count"


def test_the_objects_of_the_page(kube_parts: Parts, private_apiserver: Callable[[], ApiServer]) -> None:
    """docs/route-by-model.md: a server-side dry run finds no fault with them."""
    server = private_apiserver()
    server.crds(sorted(Path(kube_parts.gateway_crds).glob("*httproutes.yaml")))
    page = Path(__file__).parents[2] / "docs" / "route-by-model.md"
    found = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    blocks = [block for block in found if "kind:" in block]
    for block in blocks:
        server.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=block)
    assert [re.findall(r"^kind: (.*)$", block, re.MULTILINE) for block in blocks] == [
        ["ConfigMap"], ["Role"], ["HTTPRoute"],
    ]  # fmt: skip
    named = read_configmap(yaml.safe_load(blocks[0])["data"], "page")
    assert named.adapters == ("food-review", "cad-fabricator")
