"""The chart, and every manifest of deploy/, by the real helm, kubectl and API server."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.stack import StackError
from deploy import render
from tests.kube import schemas

from .rig import ApiError, ApiServer, Parts, wait_until

Object = dict[str, Any]
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


def _definitions(source: schemas.Source) -> list[Object]:
    try:
        return list(schemas.definitions(source))
    except LookupError as error:
        pytest.skip(f"MANIFESTS ARE NOT VALIDATED: {error}")


def _objects(text: str) -> list[Object]:
    return [thing for thing in yaml.load_all(text, yaml.CSafeLoader) if thing]


def _chart(parts: Parts, values: Path) -> list[Object]:
    return _objects(render.template(parts.helm, values))


def _values(folder: Path, values: Mapping[str, Any]) -> Path:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(dict(values)))
    return path


def _accepts(server: ApiServer, thing: Object) -> None:
    """What a server-side dry run finds fault with: unknown fields, wrong types, rules of the definitions."""
    if thing["kind"] in schemas.NOT_VALIDATED.get(thing["apiVersion"], ()):
        return
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
    for thing in objects:
        _accepts(server, thing)


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
            found.append((page.name, [word for word in words[at + 1 :] if word != "--reuse-values"]))
    return found


@pytest.mark.parametrize(("page", "settings"), _commands(), ids=lambda value: str(value)[:60])
def test_what_the_docs_install_is_accepted(server: ApiServer, page: str, settings: list[str]) -> None:
    argv = [server.parts.helm, "template", "epp", str(render.CHART), "--kube-version", render.KUBERNETES]
    if not any("matchLabels" in word or word.startswith("mode=") for word in settings):
        settings = [*settings, "--set", "pool.matchLabels.app=vllm"]  # an upgrade keeps what was set
    done = subprocess.run([*argv, *settings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for thing in _objects(done.stdout):
        _accepts(server, {**thing, "metadata": {"namespace": "default", **thing["metadata"]}})


# Everything else in deploy/


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: str(path.relative_to(render.DEPLOY)))
def test_kustomizations_build_and_every_object_is_accepted(server: ApiServer, folder: Path) -> None:
    objects = _objects(server.kubectl("kustomize", str(folder)))
    assert objects
    for thing in objects:
        assert thing["metadata"].get("namespace", "default") in NAMESPACES
        _accepts(server, thing)


def test_single_manifests_are_accepted(server: ApiServer) -> None:
    paths = sorted(render.DEPLOY.glob("examples/*.yaml"))
    assert paths
    for path in paths:
        for thing in _objects(path.read_text()):
            _accepts(server, thing)


def test_kinds_that_are_not_validated_are_used_and_named_in_the_docs(kube_parts: Parts) -> None:
    text = (render.DEPLOY.parent / "docs" / "gateways" / "README.md").read_text()
    used = {
        thing["kind"]
        for path in [*render.DEPLOY.glob("gateways/*/*.yaml"), *render.DEPLOY.glob("examples/**/*.yaml")]
        for thing in _objects(path.read_text())
        if "kind" in thing
    } | {thing["kind"] for values in CI for thing in _chart(kube_parts, values)}
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


# What the picker may do

READ = ("get", "list", "watch")
POOLS = "inferencepools.inference.networking.k8s.io"
OLD_POOLS = "inferencepools.inference.networking.x-k8s.io"
ATTACHED = [
    f"{plural}.{group}"
    for plural in ("inferenceobjectives", "inferencemodelrewrites")
    for group in ("llm-d.ai", "inference.networking.x-k8s.io")
]
WATCHED = ["pods", POOLS, OLD_POOLS, *ATTACHED]
REVIEWS = ["tokenreviews.authentication.k8s.io", "subjectaccessreviews.authorization.k8s.io"]
LEASES = "leases.coordination.k8s.io"


class Account:
    """The service account of an installed chart."""

    def __init__(self, server: ApiServer, namespace: str, values: Path) -> None:
        self._server = server
        objects = _objects(render.template(server.parts.helm, values, namespace=namespace))
        for thing in objects:
            if thing["apiVersion"].startswith("rbac."):
                server.create(thing)
        (pod,) = [thing["spec"]["template"]["spec"] for thing in objects if thing["kind"] == "Deployment"]
        self.namespace = namespace
        self.name: str = pod["serviceAccountName"]

    def may(self, verb: str, resource: str, namespace: str) -> bool:
        plural, _, group = resource.partition(".")
        asked = {"namespace": namespace, "verb": verb, "group": group, "resource": plural}
        user = f"system:serviceaccount:{self.namespace}:{self.name}"
        groups = [f"system:serviceaccounts:{self.namespace}", "system:authenticated"]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self._server.request("POST", path, review)["status"]["allowed"])

    def allowed(self, namespace: str) -> set[tuple[str, str]]:
        """Of everything that the picker could want, and some that it must not have."""
        verbs = (*READ, "create", "update", "patch", "delete")
        resources = [*WATCHED, "events", "events.events.k8s.io", LEASES, *REVIEWS]
        resources += [
            "secrets",
            "configmaps",
            "services",
            "nodes",
            "pods/exec",
            "deployments.apps",
            "endpoints",
        ]
        return {
            (verb, resource)
            for verb in verbs
            for resource in resources
            if self.may(verb, resource, namespace)
        }


def _check(account: Account, namespace: str, expected: set[tuple[str, str]]) -> None:
    """The server's authorizer learns of new roles a moment after they are created."""
    told: set[tuple[str, str]] = set()

    def as_expected() -> bool:
        told.clear()
        told.update(account.allowed(namespace))
        return told == expected

    try:
        wait_until(as_expected, "the rights are known", patience_s=5)
    except StackError:
        assert told == expected


EVENTS = {("create", "events")}


def _reads(*resources: str) -> set[tuple[str, str]]:
    return {(verb, resource) for verb in READ for resource in resources}


def test_one_pool_reads_its_namespace_and_asks_about_scrapers(server: ApiServer) -> None:
    account = Account(server, server.namespace(), render.CHART / "ci/one-pool.yaml")
    reviews = {("create", review) for review in REVIEWS}
    _check(account, account.namespace, _reads(*WATCHED) | EVENTS | reviews)
    _check(account, "default", reviews)


def test_a_selector_needs_no_pools(server: ApiServer, tmp_path: Path) -> None:
    values = _values(tmp_path, {"pool": {**VLLM, "source": "selector"}, "metrics": {"auth": False}})
    account = Account(server, server.namespace(), values)
    _check(account, account.namespace, _reads("pods", *ATTACHED) | EVENTS)
    _check(account, "default", set())


def test_leader_election_adds_leases_of_its_namespace(server: ApiServer, tmp_path: Path) -> None:
    values = _values(tmp_path, {"pool": VLLM, "leaderElection": True, "metrics": {"auth": False}})
    account = Account(server, server.namespace(), values)
    leases = {(verb, LEASES) for verb in ("get", "create", "update")}
    _check(account, account.namespace, _reads(*WATCHED) | EVENTS | leases)
    _check(account, "default", set())


def test_all_namespaces_are_read_but_leases_stay_at_home(server: ApiServer, tmp_path: Path) -> None:
    values = {"mode": "many-pools", "pools": {"allNamespaces": True}, "leaderElection": True}
    account = Account(server, server.namespace(), _values(tmp_path, {**values, "metrics": {"auth": False}}))
    _check(account, "default", _reads(*WATCHED) | EVENTS)
    wait_until(lambda: account.may("create", LEASES, account.namespace), "leases at home")


def test_standalone_has_no_account_at_all(kube_parts: Parts) -> None:
    objects = _chart(kube_parts, render.CHART / "ci/standalone.yaml")
    assert not [thing for thing in objects if thing["apiVersion"].startswith("rbac.")]
    assert "ServiceAccount" not in {thing["kind"] for thing in objects}
    (pod,) = [thing["spec"]["template"]["spec"] for thing in objects if thing["kind"] == "Deployment"]
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod


def test_a_reader_of_metrics_may_get_metrics_alone(server: ApiServer, tmp_path: Path) -> None:
    namespace = server.namespace()
    reader = {"namespace": namespace, "name": "prometheus"}
    account = Account(server, namespace, _values(tmp_path, {"pool": VLLM, "metrics": {"readers": [reader]}}))
    account.name = "prometheus"
    _check(account, namespace, set())
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

    def may_get(page: str) -> bool:
        spec = {
            "user": f"system:serviceaccount:{namespace}:prometheus",
            "nonResourceAttributes": {"path": page, "verb": "get"},
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return bool(server.request("POST", path, review)["status"]["allowed"])

    wait_until(lambda: may_get("/metrics"), "the reader may get metrics")
    assert not may_get("/debug/decisions")
