"""The chart, and every manifest of deploy/, by the real helm, kubectl and API server."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from google.protobuf import json_format

from bench.stack import BIN
from deploy import render
from epp.extproc.certificates import self_signed
from tests.kube import schemas

from .rig import ApiError, ApiServer, Parts

Object = dict[str, Any]
ANY_TYPES = (ext_proc_pb2, header_mutation_pb2)
"""Imported so that patches that hold them can be read."""
CI = sorted(render.CHART.glob("ci/*.yaml"))
KUSTOMIZATIONS = sorted(path.parent for path in render.DEPLOY.rglob("kustomization.yaml"))
NAMESPACES = ("default", "llama")


@pytest.fixture(scope="module")
def server(kube_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One with the definitions of every project whose kinds are used."""
    server = ApiServer(kube_parts, tmp_path_factory.mktemp("kube"))
    try:
        server.start()
        server.inference_crds()
        server.crds(
            path
            for path in sorted(Path(kube_parts.gateway_crds).glob("*.yaml"))
            if any(kind in path.name for kind in ("gateways", "gatewayclasses", "httproutes", "backendtls"))
        )
        found = [thing for source in schemas.SOURCES for thing in _definitions(source)]
        for definition in found:
            server.create(definition)
        for definition in found:
            server.established(definition)
        server.namespace("llama")
        yield server
    finally:
        server.stop()


_missing: dict[str, str] = {}
"""Kinds whose definitions could not be had here, and why."""


def _definitions(source: schemas.Source) -> list[Object]:
    try:
        return list(schemas.definitions(source))
    except LookupError as error:
        for kind in source.kinds:
            _missing[kind] = str(error)
        return []


def _objects(text: str) -> list[Object]:
    return [thing for thing in yaml.load_all(text, yaml.CSafeLoader) if thing]


def _chart(parts: Parts, values: Path) -> list[Object]:
    return _objects(render.template(parts.helm, values))


def _values(folder: Path, values: Mapping[str, Any]) -> Path:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(dict(values)))
    return path


def _accepts(server: ApiServer, objects: Iterable[Object]) -> None:
    """Each passes, or is of a kind that nobody can judge here; what only this machine lacks is told."""
    unknown = set()
    for thing in objects:
        if thing["kind"] in _missing:
            unknown.add(_missing[thing["kind"]])
        elif thing["kind"] not in schemas.NOT_VALIDATED.get(thing["apiVersion"], ()):
            _accept(server, thing)
    if unknown:
        pytest.skip(f"THE REST IS VALID, BUT NOT ALL COULD BE VALIDATED: {'; '.join(sorted(unknown))}")


def _accept(server: ApiServer, thing: Object) -> None:
    """What a server-side dry run finds fault with: unknown fields, wrong types, rules of the definitions."""
    path = server.path_of(thing) + "?dryRun=All&fieldManager=test&force=true&fieldValidation=Strict"
    try:
        server.request("PATCH", path, thing, content="application/apply-patch+yaml")
    except ApiError as error:
        name = f"{thing['kind']} {thing['metadata']['name']}"
        pytest.fail(f"{name}: {json.loads(str(error).partition(': ')[2])['message']}")


# The chart


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_the_chart_renders_and_every_object_is_accepted(server: ApiServer, values: Path) -> None:
    objects = _chart(server.parts, values)
    assert {"Deployment", "Service"} <= {thing["kind"] for thing in objects}
    _accepts(server, objects)


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_the_chart_passes_its_lint(kube_parts: Parts, values: Path) -> None:
    argv = [kube_parts.helm, "lint", "--strict", "--quiet", "--kube-version", render.KUBERNETES]
    argv += [str(render.CHART), "--values", str(values)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "typo",
    [
        {"replica": 2},
        {"pool": {"matchLabel": {"app": "vllm"}}},
        {"pool": {"targetPorts": ["8000"]}},
        {"pool": {"failureMode": "Open"}},
        {"mode": "one"},
        {"gateway": "kgateway"},
        {"metrics": {"serviceMonitor": {"enable": True}}},
        {"extraArgs": ["v=2"]},
        {"pools": {"configs": {"llama": {}}}},
    ],
    ids=str,
)
def test_a_typo_in_the_values_is_an_error(kube_parts: Parts, tmp_path: Path, typo: Object) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render.template(kube_parts.helm, _values(tmp_path, typo))
    assert "values don't meet the specifications of the schema" in caught.value.stderr


VLLM = {"matchLabels": {"app": "vllm"}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "pool.matchLabels is empty"),
        ({"mode": "standalone"}, "standalone.endpoints"),
        ({"pool": VLLM, "leaderElection": True, "autoscaling": {"enabled": True}}, "leaderElection"),
        ({"mode": "many-pools", "gateway": "gke"}, "one-pool"),
        ({"mode": "many-pools", "httpRoute": {"enabled": True}}, "a route for each"),
        ({"pool": VLLM, "scaleModelServers": {"enabled": True}}, "target.name"),
        ({"pool": {**VLLM, "failureMode": "FailOpen"}, "gateway": "envoy"}, "fails closed"),
        ({"pool": {**VLLM, "source": "selector"}, "httpRoute": {"enabled": True}}, "InferencePool to name"),
        ({"pool": {**VLLM, "targetPorts": [1, 2]}, "gateway": "envoy-gateway"}, "one target port"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_do_not_go_together_are_an_error(
    kube_parts: Parts, tmp_path: Path, values: Object, said: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render.template(kube_parts.helm, _values(tmp_path, values))
    assert said in caught.value.stderr


@pytest.mark.parametrize(
    ("values", "budgets"),
    [
        ({}, ["epp", "epp-model-header"]),
        ({"leaderElection": True}, ["epp-model-header"]),
        ({"replicas": 1}, ["epp-model-header"]),
        ({"routeByModel": {"enabled": True, "replicas": 1}}, ["epp"]),
        ({"podDisruptionBudget": {"enabled": False}}, []),
    ],
    ids=str,
)
def test_budgets_are_for_what_has_replicas(
    kube_parts: Parts, tmp_path: Path, values: Object, budgets: list[str]
) -> None:
    two = {"pool": VLLM, "replicas": 2, "routeByModel": {"enabled": True}}
    objects = _chart(kube_parts, _values(tmp_path, {**two, **values}))
    names = [thing["metadata"]["name"] for thing in objects if thing["kind"] == "PodDisruptionBudget"]
    assert sorted(names) == budgets


def test_generated_files_are_what_the_chart_gives(kube_parts: Parts) -> None:
    for path, text in render.rendered(kube_parts.helm):
        assert path.read_text() == text, f"{path}: run python deploy/render.py"


def _commands() -> list[tuple[str, list[str]]]:
    """The helm commands of the docs: their page and arguments."""
    found = []
    for page in sorted((render.DEPLOY.parent / "docs").rglob("*.md")):
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(
            r"^helm (?:install|upgrade) .*deploy/helm/inference-epp.*$", text, re.MULTILINE
        ):
            words = shlex.split(line, comments=True)
            at = words.index("deploy/helm/inference-epp")
            # Of an installation that is there; the rest is what a new one takes too.
            found.append((page.name, [word for word in words[at + 1 :] if not word.endswith("reuse-values")]))
    return found


@pytest.mark.parametrize(("page", "settings"), _commands(), ids=lambda value: str(value)[:60])
def test_what_the_docs_install_is_accepted(server: ApiServer, page: str, settings: list[str]) -> None:
    argv = [server.parts.helm, "template", "epp", str(render.CHART), "--kube-version", render.KUBERNETES]
    if not any("matchLabels" in word or word.startswith("mode=") for word in settings):
        settings = [*settings, "--set", "pool.matchLabels.app=vllm"]  # an upgrade keeps what was set
    done = subprocess.run([*argv, *settings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _accepts(server, _objects(done.stdout))


def test_a_release_is_installed_upgraded_rolled_back_and_gone(server: ApiServer, tmp_path: Path) -> None:
    namespace = server.namespace()
    home = {name: str(tmp_path) for name in ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}

    def helm(*arguments: str) -> str:
        argv = [server.parts.helm, *arguments, "--namespace", namespace]
        argv += ["--kubeconfig", str(server.kubeconfig(namespace=namespace))]
        done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **home}, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def args() -> list[str]:
        found = json.loads(server.kubectl("get", "deployment", "epp", "-n", namespace, "-o", "json"))
        return list(found["spec"]["template"]["spec"]["containers"][0]["args"])

    chart = str(render.CHART)
    said = helm("install", "epp", chart, "--set", "pool.matchLabels.app=vllm")
    assert "epp is installed in mode one-pool" in said
    assert "--pool-name=epp" in args()
    more = [
        "--set",
        "leaderElection=true,replicas=2,modelsPort=8080,pool.targetPorts={8000,8001},gateway=agentgateway",
    ]
    helm("upgrade", "epp", chart, "--reuse-values", *more)
    assert "--ha-enable-leader-election" in args()
    helm("rollback", "epp")
    assert "--ha-enable-leader-election" not in args()
    helm("uninstall", "epp")
    left = server.kubectl(
        "get", "deployment,service,inferencepool,role,configmap", "-n", namespace, "-o", "name"
    )
    assert left == ""


# What is in it for Envoy


@pytest.mark.parametrize("name", ["standalone", "selector", "envoy-tls"])
def test_envoy_accepts_the_file_that_the_chart_writes(kube_parts: Parts, tmp_path: Path, name: str) -> None:
    objects = _chart(kube_parts, render.CHART / f"ci/{name}.yaml")
    (text,) = [
        thing["data"]["envoy.yaml"]
        for thing in objects
        if thing["metadata"]["name"] == "epp-envoy" and thing["kind"] == "ConfigMap"
    ]
    assert ("127.0.0.1, port_value: 9002" in text) == (name == "standalone")
    authority = tmp_path / "ca.crt"
    authority.write_bytes(self_signed().certificate)
    path = tmp_path / "envoy.yaml"
    path.write_text(text.replace("/etc/epp/tls/ca.crt", str(authority)))
    argv = [str(BIN / "envoy"), "--mode", "validate", "--config-path", str(path), "--log-level", "error"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_patched_into_istios_envoys_is_valid_there(kube_parts: Parts) -> None:
    things = _objects((render.DEPLOY / "gateways/istio/gateway.yaml").read_text())
    things += _chart(kube_parts, render.CHART / "ci/one-pool-everything.yaml")
    messages = {
        "HTTP_FILTER": http_connection_manager_pb2.HttpFilter,
        "NETWORK_FILTER": listener_components_pb2.Filter,
    }
    patches = [
        patch
        for thing in things
        if thing["kind"] == "EnvoyFilter"
        for patch in thing["spec"]["configPatches"]
    ]
    assert {patch["applyTo"] for patch in patches} == set(messages)
    for patch in patches:
        json_format.ParseDict(patch["patch"]["value"], messages[patch["applyTo"]]())


# Everything else in deploy/


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: str(path.relative_to(render.DEPLOY)))
def test_kustomizations_build_and_every_object_is_accepted(server: ApiServer, folder: Path) -> None:
    objects = _objects(server.kubectl("kustomize", str(folder)))
    assert objects
    for thing in objects:
        assert thing["metadata"].get("namespace", "default") in NAMESPACES
    _accepts(server, objects)


def test_single_manifests_are_accepted(server: ApiServer) -> None:
    paths = sorted(render.DEPLOY.glob("examples/*.yaml"))
    assert paths
    for path in paths:
        _accepts(server, _objects(path.read_text()))


def test_kinds_that_are_not_validated_are_used_and_named_in_the_docs(kube_parts: Parts) -> None:
    text = (render.DEPLOY.parent / "docs" / "gateways" / "README.md").read_text()
    used = {
        thing["kind"]
        for path in [*render.DEPLOY.glob("gateways/*/*.yaml"), *render.DEPLOY.glob("examples/**/*.yaml")]
        for thing in _objects(path.read_text())
        if "kind" in thing
    } | {thing["kind"] for values in CI for thing in _chart(kube_parts, values)}
    for source in schemas.SOURCES:
        minor = ".".join(source.version.removeprefix("v").split(".")[:2])
        assert minor in text, f"version of {source.module}"
    for kinds in schemas.NOT_VALIDATED.values():
        for kind in kinds:
            assert kind in used, f"{kind} is used nowhere any more"
            assert kind in text


def test_an_overlay_of_one_namespace_shares_no_cluster_wide_name(server: ApiServer) -> None:
    names = {
        thing["metadata"]["name"]
        for thing in _objects(server.kubectl("kustomize", str(render.DEPLOY / "kustomize/overlays/llama")))
        if thing["kind"] in ("ClusterRole", "ClusterRoleBinding")
    }
    assert names == {"llama:epp-metrics-auth"}
