"""A picker with the flags and the rights that the chart gives it: both are enough to serve."""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.stack import Child, free_port
from deploy import render

from .rig import ApiServer

Object = dict[str, Any]
LOADED = "import sys; from epp.__main__ import main; sys.argv[0] = 'epp'; main()"


class Installed:
    """What a release would be: its objects, but the pods, which nobody here would start."""

    def __init__(self, server: ApiServer, folder: Path, values: Object) -> None:
        path = folder / "values.yaml"
        path.write_text(yaml.safe_dump(values))
        self.server = server
        self.folder = folder
        self.namespace = server.namespace()
        text = render.template(server.parts.helm, path, namespace=self.namespace)
        self.objects: list[Object] = [thing for thing in yaml.safe_load_all(text) if thing]
        for thing in self.objects:
            if thing["kind"] != "Deployment":
                server.create(thing)
        self.pods: dict[str, Object] = {
            thing["metadata"]["name"]: thing["spec"]["template"]["spec"]
            for thing in self.objects
            if thing["kind"] == "Deployment"
        }

    def _mounted(self, pod: Object) -> Path:
        """What stands below /etc/epp."""
        maps = {
            thing["metadata"]["name"]: thing["data"] for thing in self.objects if thing["kind"] == "ConfigMap"
        }
        root = self.folder / "etc"
        for volume in pod.get("volumes", ()):
            for name, text in maps[volume["configMap"]["name"]].items():
                (root / volume["name"]).mkdir(parents=True, exist_ok=True)
                (root / volume["name"] / name).write_text(text)
        return root

    @contextmanager
    def running(
        self, name: str = "epp-7d9f-x2k4q", deployment: str = "epp", grpc_port: int = 0, health_port: int = 0
    ) -> Iterator[tuple[Child, int]]:
        """The container's command as the pod would run it, with its account's token and ConfigMaps, and
        free ports. Gives the port of its metrics."""
        pod = self.pods[deployment]
        (container,) = pod["containers"]
        port = free_port()
        mounted = self._mounted(pod)
        argv = [sys.executable, "-c", LOADED, *container.get("command", ["epp", "serve"])[1:]]
        for argument in container["args"]:
            text = argument.replace("$(NAMESPACE)", self.namespace)
            text = text.replace("/etc/epp", str(mounted))
            text = re.sub(r"^--grpc-port=.*", f"--grpc-port={grpc_port}", text)
            text = re.sub(r"^--grpc-health-port=.*", f"--grpc-health-port={health_port}", text)
            argv.append(re.sub(r"^--metrics-port=.*", f"--metrics-port={port}", text))
        env = {"POD_NAME": name, "NAMESPACE": self.namespace}
        if "serviceAccountName" in pod:
            token = self.server.token(self.namespace, pod["serviceAccountName"])
            env["KUBECONFIG"] = str(self.server.kubeconfig(namespace=self.namespace, token=token))
        child = Child(name, [*argv, "--bind-address=127.0.0.1"], self.folder / f"{name}.log", env=env)
        try:
            yield child, port
        finally:
            if child.status is None:
                child.kill()  # draining is not what is looked at


def _get(port: int, page: str, token: str = "") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{page}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def _ready(port: int) -> bool:
    return _get(port, "/readyz")[0] == 200


@pytest.fixture(scope="module", autouse=True)
def monitoring(apiserver: ApiServer) -> None:
    """The account that every release names as a reader of its metrics."""
    apiserver.namespace("monitoring")
    apiserver.service_account("monitoring", "prometheus")


CASES: dict[str, Object] = {
    "one-pool": {"pool": {"matchLabels": {"app": "vllm"}}},
    "selector": {"pool": {"source": "selector", "matchLabels": {"app": "vllm"}}},
    "leader-election": {"pool": {"matchLabels": {"app": "vllm"}}, "leaderElection": True},
    "many-pools": {"mode": "many-pools"},
    "all-namespaces": {"mode": "many-pools", "pools": {"allNamespaces": True}},
}


@pytest.mark.parametrize("name", CASES)
def test_the_charts_flags_and_rights_are_enough_to_serve(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    readers = [{"namespace": "monitoring", "name": "prometheus"}]
    installed = Installed(apiserver, tmp_path, {**CASES[name], "metrics": {"readers": readers}})
    if name in ("many-pools", "all-namespaces"):
        pool = {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 8000}]}
        pool["endpointPickerRef"] = {"name": "epp", "port": {"number": 9002}}
        metadata = {"name": "llama", "namespace": installed.namespace}
        head = {"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool"}
        apiserver.create({**head, "metadata": metadata, "spec": pool})
    apiserver.pod(installed.namespace, "vllm-0", {"app": "vllm"})
    apiserver.service_account(installed.namespace, "stranger")
    with installed.running() as (child, port):
        child.wait_for(lambda: _ready(port))
        assert _get(port, "/metrics")[0] == 401
        assert _get(port, "/metrics", apiserver.token(installed.namespace, "stranger"))[0] == 403
        status, text = _get(port, "/metrics", apiserver.token("monitoring", "prometheus"))
        assert status == 200, text
        ready = [line for line in text.splitlines() if line.startswith("llm_d_epp_ready_endpoints{")]
        assert any(line.endswith(" 1") for line in ready), ready
        said = child.output()
        assert "orbidden" not in said, said
        assert "has no effect" not in said, said


def test_with_leader_election_the_second_waits_and_takes_over(apiserver: ApiServer, tmp_path: Path) -> None:
    installed = Installed(apiserver, tmp_path, CASES["leader-election"])
    with installed.running("epp-a-a") as (first, first_port):
        first.wait_for(lambda: _ready(first_port))
        with installed.running("epp-b-b") as (second, second_port):
            second.wait_for(lambda: _get(second_port, "/readyz")[0] == 503)
            first.stop()
            second.wait_for(lambda: _ready(second_port))


def test_the_body_based_router_follows_its_config_maps(apiserver: ApiServer, tmp_path: Path) -> None:
    values = {"pool": {"matchLabels": {"app": "vllm"}}, "routeByModel": {"enabled": True}}
    installed = Installed(apiserver, tmp_path, values)
    with installed.running("router", "epp-model-header") as (child, port):
        child.wait_for(lambda: _ready(port))
        assert _get(port, "/metrics")[0] == 200
        assert _get(port, "/debug/pprof/threads")[0] == 404
        assert "orbidden" not in child.output()
