"""Installations of docs/kubernetes.md with processes for containers: a chat through the chart's own Envoy."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.stack import BIN, Child, free_port
from epp.cli.envoyfile import render as fill

from .rig import ApiServer, wait_until
from .test_deploy_start import LOADED, Installed, Object


@pytest.fixture
def children() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _started(children: ExitStack, name: str, argv: list[str], log: Path) -> Child:
    child = Child(name, argv, log)
    children.callback(lambda: child.kill() if child.status is None else None)
    return child


def _servers(children: ExitStack, folder: Path) -> int:
    """Two simulated model servers on one port of two loopback addresses, as two pods have it."""
    port = free_port()
    for host in ("127.0.0.1", "127.0.0.2"):
        argv = [sys.executable, "-c", LOADED, "sim", "--host", host, "--port", str(port), "--model", "llama"]
        child = _started(children, f"sim-{host}", [*argv, "--profile", "instant"], folder / f"{host}.log")
        child.wait_for(lambda host=host: _status(f"http://{host}:{port}/health") == 200)  # type: ignore[misc]
    return port


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def _envoy(children: ExitStack, installed: Installed, deployment: str, ports: dict[str, int]) -> Child:
    """The chart's container with the chart's file, every port its own."""
    folder = installed.folder
    (text,) = [
        thing["data"]["envoy.yaml"]
        for thing in installed.objects
        if thing["kind"] == "ConfigMap" and "envoy.yaml" in thing["data"]
    ]
    path = folder / "chart.yaml"
    path.write_text(text.replace(f"epp.{installed.namespace}.svc", "127.0.0.1"))
    (folder / "envoy.yaml").write_text(fill(path, {**ports, "listener_address": "127.0.0.1"}))
    pod = installed.pods[deployment]
    (container,) = [
        each for each in [*pod.get("initContainers", ()), *pod["containers"]] if each["name"] == "envoy"
    ]
    args = [arg.replace("/etc/envoy/envoy.yaml", str(folder / "envoy.yaml")) for arg in container["args"]]
    return _started(children, "envoy", [str(BIN / "envoy"), *args], folder / "envoy.log")


def _chat(port: int) -> tuple[int, str]:
    """Status, and which server answered."""
    body = json.dumps({"model": "llama", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", data=body.encode())
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["x-gateway-destination-endpoint-served"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


VALUES: dict[str, Object] = {
    "deployment": {
        "pool": {"source": "selector", "matchLabels": {"app": "vllm"}},
        "gateway": "envoy",
        "envoy": {"placement": "deployment"},
    },
    "sidecar": {"mode": "standalone", "gateway": "envoy", "metrics": {"auth": False}},
}


@pytest.mark.parametrize("placement", VALUES)
def test_a_chat_goes_through_the_charts_envoy_and_picker(
    apiserver: ApiServer, tmp_path: Path, children: ExitStack, placement: str
) -> None:
    port = _servers(children, tmp_path)
    hosts = ("127.0.0.1", "127.0.0.2")
    values = json.loads(json.dumps(VALUES[placement]))
    if placement == "sidecar":
        endpoints = [{"name": f"vllm-{at}", "address": host, "port": port} for at, host in enumerate(hosts)]
        values["standalone"] = {"endpoints": endpoints}
    else:
        values["pool"]["targetPorts"] = [port]
    installed = Installed(apiserver, tmp_path, values)
    for at, host in enumerate(hosts):
        apiserver.pod(installed.namespace, f"vllm-{at}", {"app": "vllm"}, ip=host)
    grpc_port, health_port = free_port(), free_port()
    picker, metrics_port = children.enter_context(
        installed.running(grpc_port=grpc_port, health_port=health_port)
    )
    picker.wait_for(lambda: _status(f"http://127.0.0.1:{metrics_port}/readyz") == 200)
    listener = free_port()
    ports = {"listener": listener, "admin": free_port(), "epp": grpc_port, "epp_health": health_port}
    envoy = _envoy(children, installed, "epp" if placement == "sidecar" else "epp-envoy", ports)
    envoy.wait_for(lambda: _chat(listener)[0] == 200)
    answers: set[tuple[int, str]] = set()
    both = {(200, f"{host}:{port}") for host in hosts}

    def both_took_part() -> bool:
        answers.add(_chat(listener))
        return answers == both

    wait_until(both_took_part, f"both servers answer, and nobody else: {both}")
