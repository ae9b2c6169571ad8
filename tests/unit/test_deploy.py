"""What stands in deploy/ agrees with itself and with the program: flags, ports, copies, values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import render
from epp.cli.doctor import doctor
from epp.cli.flags import FLAGS
from epp.cli.route_by_model import route_by_model
from epp.config.loader import load_text

DEPLOY = render.DEPLOY
CHART = render.CHART
ROOT = DEPLOY.parent
Object = dict[str, Any]

MANIFESTS = sorted(
    path
    for folder in ("kustomize", "gateways", "examples")
    for path in DEPLOY.glob(f"{folder}/**/*.yaml")
    if path.name not in ("kustomization.yaml", "values.yaml", "config.yaml")
    and not path.name.endswith("-values.yaml")
)
SERVE = {name: flag for flag in FLAGS for name in flag.names}


def _objects(path: Path) -> list[Object]:
    return [thing for thing in yaml.safe_load_all(path.read_text()) if thing]


def _pods() -> Iterator[tuple[Path, Object]]:
    for path in MANIFESTS:
        for thing in _objects(path):
            if thing.get("kind") == "Deployment":
                yield path, thing["spec"]["template"]["spec"]


def _containers(name: str) -> Iterator[tuple[Path, Object, Object]]:
    for path, pod in _pods():
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            if container["name"] == name:
                yield path, pod, container


# Flags


def _templates() -> str:
    return "\n".join(path.read_text() for path in sorted(CHART.glob("templates/*")))


def _flags_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)(?=[=\s\"',]|$)", text))


ENVOY = {"--config-path", "--disable-hot-restart", "--log-level"}


def test_every_flag_of_the_chart_exists() -> None:
    """Of the picker in _flags.tpl, of the body-based router in its own file, of Envoy in _pod.tpl."""
    ours = _flags_of((CHART / "templates/_flags.tpl").read_text())
    assert {"--pool-name", "--all-pools", "--endpoint-selector", "--drain-timeout"} <= ours
    assert {name for name in ours if name not in SERVE or SERVE[name].refused} == set()
    routing = _flags_of((CHART / "templates/route-by-model.yaml").read_text())
    known = {option for parameter in route_by_model.params for option in parameter.opts}
    assert routing
    assert routing <= known
    assert _flags_of((CHART / "templates/_pod.tpl").read_text()) == ENVOY


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_flag_of_a_manifest_exists(path: Path) -> None:
    known = set(SERVE) | ENVOY | {"--host", "--port", "--model", "--config"}
    assert _flags_of(path.read_text()) <= known


def test_flags_of_overlays_and_docs_exist() -> None:
    known = set(SERVE) | {option for parameter in route_by_model.params for option in parameter.opts}
    for path in DEPLOY.glob("kustomize/overlays/*/kustomization.yaml"):
        assert _flags_of(path.read_text()) <= known, path


def test_options_of_epp_doctor_in_the_docs_exist() -> None:
    known = {option for parameter in doctor.params for option in parameter.opts}
    text = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    told = set(re.findall(r"^epp doctor (--.*)$", text, re.MULTILINE))
    assert told
    for line in told:
        assert _flags_of(line) <= known, line


# Ports, probes, security


def test_pickers_listen_where_probes_and_services_ask() -> None:
    seen = 0
    for path, pod, container in _containers("epp"):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        given = dict(argument.split("=", 1) for argument in container["args"] if "=" in argument)
        assert int(given["--grpc-port"]) == ports["grpc-ext-proc"] == 9002
        assert int(given["--grpc-health-port"]) == ports["grpc-health"] == 9003
        assert int(given["--metrics-port"]) == ports["http-metrics"] == 9090
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["grpc"]["port"] == 9003
        drain_s = int(given["--drain-timeout"].removesuffix("s"))
        hook_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod["terminationGracePeriodSeconds"] > drain_s + hook_s, path
        seen += 1
    assert seen >= 10


def test_services_name_ports_that_containers_have() -> None:
    for path in MANIFESTS:
        objects = _objects(path)
        for service in objects:
            if service.get("kind") != "Service":
                continue
            selector = service["spec"]["selector"]
            for pod in objects:
                template = pod.get("spec", {}).get("template", {})
                if (
                    pod.get("kind") != "Deployment"
                    or not selector.items() <= template["metadata"]["labels"].items()
                ):
                    continue
                spec = template["spec"]
                containers = [*spec.get("initContainers", ()), *spec["containers"]]
                open_ports = {port["containerPort"] for each in containers for port in each.get("ports", ())}
                for port in service["spec"]["ports"]:
                    assert port.get("targetPort", port["port"]) in open_ports, (path, port)


def test_our_containers_may_do_nothing_that_they_need_not() -> None:
    for path, pod in _pods():
        if path.parent.name == "litellm":
            continue  # an image of others
        assert pod["securityContext"]["runAsNonRoot"] is True, path
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, path
            assert "memory" in container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "env" not in container or not [e for e in container["env"] if "secretKeyRef" in str(e)]


def test_no_manifest_reads_secrets() -> None:
    for path in MANIFESTS:
        for thing in _objects(path):
            for rule in thing.get("rules", ()) if "rbac" in thing.get("apiVersion", "") else ():
                assert "secrets" not in rule.get("resources", ()), path
                assert "*" not in [
                    *rule.get("resources", ()),
                    *rule.get("verbs", ()),
                    *rule.get("apiGroups", ()),
                ]


# Copies and what is generated


@pytest.mark.parametrize(
    ("path", "text"), list(render.copies()), ids=lambda value: getattr(value, "name", "")
)
def test_files_of_the_chart_are_what_they_are_copies_of(path: Path, text: str) -> None:
    assert path.read_text() == text, "run python deploy/render.py"


def _envoys() -> Iterator[tuple[Path, str]]:
    for path in MANIFESTS:
        for thing in _objects(path):
            if thing.get("kind") == "ConfigMap" and "envoy.yaml" in thing["data"]:
                yield path, thing["data"]["envoy.yaml"]


def test_envoys_of_the_manifests_are_those_that_are_tested() -> None:
    """All but the address of the picker."""
    sources = {
        name: (DEPLOY / "envoy" / name).read_text().strip() for name in ("sidecar.yaml", "standalone.yaml")
    }
    seen = set()
    for path, text in _envoys():
        name = "sidecar.yaml" if "127.0.0.1, port_value: 9002" in text else "standalone.yaml"
        plain = re.sub(r"address: [\w.-]+\.svc, port_value", "address: 127.0.0.1, port_value", text.strip())
        assert plain == sources[name], path
        seen.add(name)
    assert seen == set(sources)


def test_every_ext_proc_filter_knows_how_long_a_message_may_take() -> None:
    """Envoy's own default of 200 ms fails every request that waits for room."""
    texts = [text for _, text in _envoys()]
    texts += [path.read_text() for path in (CHART / "templates").glob("*.yaml")]
    texts += [path.read_text() for path in DEPLOY.glob("gateways/*/gateway.yaml")]
    filters = 0
    for text in texts:
        asked = text.count("ext_proc.v3.ExternalProcessor\n") + len(
            re.findall(r"^  extProc:", text, re.MULTILINE)
        )
        told = len(re.findall(r"message_?[tT]imeout: ", text))
        assert told >= asked
        filters += asked
    assert filters >= 5


REMOVED = set(re.findall(r"- remove: (\S+)", (DEPLOY / "envoy/standalone.yaml").read_text()))


@pytest.mark.parametrize("name", ["envoy-gateway", "envoy-ai-gateway", "istio", "agentgateway"])
def test_gateways_remove_what_clients_may_not_say(name: str) -> None:
    text = (DEPLOY / "gateways" / name / "gateway.yaml").read_text()
    wanted = REMOVED - {"x-llm-d-request-dropped-reason"}
    assert len(wanted) > 15
    if name == "agentgateway":  # takes 16 names: two that are read on answers alone are left out
        wanted -= {"x-gateway-destination-endpoint-served", "x-gateway-destination-endpoint-scores"}
        assert len(wanted) <= 16
    assert {header for header in wanted if not re.search(rf"[ -]{header}$", text, re.MULTILINE)} == set()


# The chart's values


def _leaves(thing: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(thing, dict) and thing:
        for key, value in thing.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(node: Object, value: Any, path: str) -> None:
        if node.get("additionalProperties") is not False:
            return
        known = set(node["properties"]) - {"global", "claims"}
        assert known == set(value) | ({"limits", "requests"} & known), path
        for key in known & set(value):
            compare(node["properties"][key], value[key], f"{path}.{key}")

    compare(schema, values, "values")


def test_every_value_is_used_by_a_template() -> None:
    text = _templates()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    free = {"commonLabels", "resources", "config"}
    for path in _leaves(values):
        if path[0] in free:
            path = path[:1]
        words = [
            word for word in path if word not in ("requests", "limits", "cpu", "memory", "grafana_dashboard")
        ]
        tail = ".".join(words[-1:]) if len(words) > 1 else words[0]
        assert re.search(rf"\.{tail}\b", text), ".".join(path)


def test_every_value_is_explained() -> None:
    """A line of words above it, or above the block that it opens; the lines below share it."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    bare = []
    for index, line in enumerate(lines):
        if not re.match(r"^[A-Za-z]\w*:", line):
            continue
        above = index - 1
        while above >= 0 and re.match(r"^[A-Za-z]\w*:", lines[above]):
            above -= 1
        below = lines[index + 1] if index + 1 < len(lines) else ""
        if not lines[above].startswith("#") and not below.strip().startswith("#"):
            bare.append(line)
    plain = {"nodeSelector", "tolerations", "affinity", "priorityClassName", "podLabels", "podAnnotations"}
    assert {line.partition(":")[0] for line in bare} <= plain | {"resources"}


def test_versions_are_one() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert chart["appVersion"] == project[1]


def test_configurations_of_values_and_overlays_are_valid(tmp_path: Path) -> None:
    texts = [(DEPLOY / "kustomize/overlays/llama/epp.yaml").read_text()]
    for path in CHART.glob("ci/*.yaml"):
        values = yaml.safe_load(path.read_text())
        configs = [values.get("config"), *values.get("pools", {}).get("configs", {}).values()]
        texts += [yaml.safe_dump(config) for config in configs if config]
    assert len(texts) >= 3
    for text in texts:
        load_text(text)
