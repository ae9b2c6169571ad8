"""Definitions of other projects' resources, for checking manifests against: read from the Go module cache.

Nothing of them is committed. A module that is not in the cache is downloaded once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a project keeps its definitions."""

    module: str
    version: str
    pattern: str
    """Of the files, below the module's folder."""
    kinds: tuple[str, ...]
    """Only those that our manifests use: each costs the API server time."""


SOURCES = (
    Source(
        "istio.io/api",
        "v1.31.1",
        "kubernetes/customresourcedefinitions.gen.yaml",
        ("DestinationRule", "EnvoyFilter"),
    ),
    Source(
        "github.com/envoyproxy/gateway",
        "v1.9.1",
        "charts/gateway-crds-helm/templates/generated/gateway.envoyproxy.io_*.yaml",
        ("Backend", "BackendTrafficPolicy", "ClientTrafficPolicy", "EnvoyExtensionPolicy"),
    ),
    Source(
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        ("ScaledObject",),
    ),
    Source(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_*s.yaml",
        ("PrometheusRule", "ServiceMonitor"),
    ),
)

NOT_VALIDATED = {
    "networking.gke.io/v1": ("GCPBackendPolicy", "GCPRoutingExtension", "HealthCheckPolicy"),
    "agentgateway.dev/v1alpha1": ("AgentgatewayPolicy",),
}
"""Kinds whose definitions are in no Go module: written from their documentation (docs/gateways/README.md)."""


@cache
def folder(source: Source) -> Path | str:
    """The module's folder, or why it cannot be had."""
    go = shutil.which("go")
    if go is None:
        return "Go is not installed"
    argv = [go, "mod", "download", "-json", f"{source.module}@{source.version}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        return done.stderr.strip()
    return Path(told["Dir"]) if "Dir" in told else str(told.get("Error", "no folder"))


def definitions(source: Source) -> Iterator[Object]:
    """Those of the wanted kinds. Raises LookupError where the module cannot be had, or lacks one."""
    where = folder(source)
    if isinstance(where, str):
        raise LookupError(f"{source.module}: {where}")
    missing = set(source.kinds)
    for path in sorted(where.glob(source.pattern)):
        # Some of the files are a chart's, with a condition around them.
        text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("{{"))
        for part in text.split("\n---\n"):
            if not any(f"kind: {kind}\n" in part for kind in source.kinds):
                continue  # parsing costs more than looking
            thing = yaml.load(part, yaml.CSafeLoader)
            if thing["spec"]["names"]["kind"] in missing:
                missing.discard(thing["spec"]["names"]["kind"])
                yield thing
    if missing:
        raise LookupError(f"{source.module} has no {', '.join(sorted(missing))}")
