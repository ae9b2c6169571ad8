"""The processes of the overload demo: two engines, and before them Envoy and epp with queues and without."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from epp.cli.demo import gateway
from epp.cli.demo.overload.scene import BANDS, BATCH, ENGINE_OPTIONS, ENGINES
from epp.cli.demo.ports import HOST, Ports
from epp.cli.demo.processes import Children
from epp.cli.demo.stack import answers, epp_document, start_engines, start_gateway, start_picker, until

_FLAG: Final = "--allow-experimental-plugins"


@dataclass(frozen=True, slots=True)
class Picker:
    """Envoy and epp."""

    name: str
    gateway: gateway.Ports
    metrics: int
    config: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.gateway.picked}"

    @property
    def epp_url(self) -> str:
        return f"http://{HOST}:{self.metrics}"


@dataclass(frozen=True, slots=True)
class Stack:
    engines: list[int]
    queued: Picker
    open: Picker
    """Knows no priorities and lets everything through."""


def choose(ports: Ports, directory: Path, first: int) -> Stack:
    """The gateway with queues on `first`, the other on the next."""

    def picker(name: str, number: int, more: str) -> Picker:
        found = gateway.Ports(
            picked=ports.one(first + number, f"the gateway{more}"),
            admin=ports.one(19000 + number, f"the admin page of the Envoy{more}"),
            epp=ports.one(9002 + 2 * number, f"the epp{more}"),
            epp_health=ports.one(9003 + 2 * number, f"the health service of the epp{more}"),
        )
        metrics = ports.one(9090 + number, f"the metrics page of the epp{more}")
        return Picker(name, found, metrics, directory / f"{name}.yaml")

    return Stack(
        engines=ports.row(8100, ENGINES, "the engines"),
        queued=picker("epp", 0, ""),
        open=picker("epp-open", 1, " without queues"),
    )


async def start(stack: Stack, children: Children, envoy: Path) -> None:
    """Raises ChildError."""
    directory = children.directory
    endpoints, objectives = directory / "endpoints.yaml", directory / "objectives.yaml"
    await start_engines(children, stack.engines, endpoints, ENGINE_OPTIONS)
    objectives.write_text(yaml.safe_dump_all(_objectives(), sort_keys=False), encoding="utf-8")
    plain, with_queues = documents(endpoints, objectives)
    for picker, document in ((stack.open, plain), (stack.queued, with_queues)):
        picker.config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        await start_picker(children, picker.name, picker.config, picker.gateway, picker.metrics, _FLAG)
        port = picker.gateway.picked
        name = f"envoy-{picker.name}"
        proxy = await start_gateway(
            children, name, envoy, gateway.believing(picker.gateway), picker.gateway.admin, "/ready"
        )
        await until(proxy, children, partial(answers, port, "/v1/models"), "Envoy to reach epp")


def _objectives() -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "llm-d.ai/v1alpha2",
            "kind": "InferenceObjective",
            "metadata": {"name": band.name},
            "spec": {"priority": band.priority, "poolRef": {"name": "demo"}},
        }
        for band in BANDS
    ]


def documents(endpoints: Path, objectives: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """epp's configuration without queues, then with them as docs/overload.md recommends: the engines are full
    when their batches are, the lowest band leaves some places free, and what waits is limited to a second or
    two of work."""
    plain = epp_document(endpoints)
    plugins = [
        {"type": "burst-utilization-detector", "parameters": {"maxRequests": BATCH}},
        {"type": "priority-holdback-policy", "parameters": {"minCeiling": 0.85}},
        {"type": "vtc-fairness-policy"},
    ]
    fair = {"fairnessPolicyRef": "vtc-fairness-policy"}
    most = zip(BANDS, (100, 30, 20), strict=True)
    flow = {
        "saturationDetector": {"pluginRef": "burst-utilization-detector"},
        "usageLimitPolicyPluginRef": "priority-holdback-policy",
        "defaultRequestTTL": "10s",
        "priorityBands": [
            {"priority": band.priority, "maxRequests": requests, **fair} for band, requests in most
        ],
    }
    queued = plain | {
        "featureGates": ["flowControl"],
        "plugins": [*plain["plugins"], *plugins],
        "flowControl": flow,
        "epp": {
            "objectives": {"path": str(objectives)},
            "trust": {"objective": "clients", "fairnessId": "clients"},
        },
    }
    return plain, queued
