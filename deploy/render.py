"""Writes what in deploy/ is made from something else there: `python deploy/render.py [--helm PATH]`.

The chart carries copies of the Envoy configurations, the alerts and the dashboard, since Helm reads nothing
outside of a chart, and an overlay one of a sample configuration; the kustomize bases and the pickers of
deploy/gateways are the chart, rendered. The tests compare.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "helm" / "inference-epp"
KUBERNETES = "1.34.0"
"""What helm takes the cluster for; it has its own, older, idea of that."""

COPIES = {
    CHART / "files/sidecar.yaml": "envoy/sidecar.yaml",
    CHART / "files/standalone.yaml": "envoy/standalone.yaml",
    CHART / "files/standalone-tls.yaml": "envoy/standalone-tls.yaml",
    CHART / "files/alerts.yaml": "prometheus/alerts.yaml",
    CHART / "files/dashboard.json": "grafana/epp.json",
    DEPLOY / "kustomize/overlays/llama/epp.yaml": "config/flow-control.yaml",
}
"""What is a copy of which file."""

_OF_HELM = re.compile(
    r"^( *# Source: .*| *app\.kubernetes\.io/managed-by: .*| *helm\.sh/chart: .*)\n", re.MULTILINE
)


def template(helm: str, values: Path, *, release: str = "epp", namespace: str = "default") -> str:
    """The chart with these values. Raises CalledProcessError, what helm said in `stderr`."""
    argv = [helm, "template", release, str(CHART), "--namespace", namespace, "--kube-version", KUBERNETES]
    argv += ["--values", str(values)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)  # noqa: S603 - the helm that was named
    return done.stdout


def rendered(helm: str) -> Iterator[tuple[Path, str]]:
    """Every manifest that is the chart with the values.yaml beside it, without Helm's own labels."""
    for values in sorted([*DEPLOY.glob("kustomize/*/values.yaml"), *DEPLOY.glob("gateways/*/values.yaml")]):
        text = _OF_HELM.sub("", template(helm, values))
        head = "# Written by deploy/render.py from values.yaml.\n"
        yield values.with_name("epp.yaml"), head + text


def copies() -> Iterator[tuple[Path, str]]:
    for path, source in COPIES.items():
        yield path, (DEPLOY / source).read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--helm", default=shutil.which("helm"))
    helm = parser.parse_args().helm
    if not helm:
        parser.error("helm was not found: name it with --helm; `make kube` builds ~/.cache/epp/kube/bin/helm")
    for path, text in copies():
        path.write_text(text)
    for path, text in rendered(helm):
        path.write_text(text)


if __name__ == "__main__":
    main()
