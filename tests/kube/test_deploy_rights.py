"""What the roles of the chart let a picker do, asked of a real API server: what it needs, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.stack import StackError
from deploy import render

from .rig import ApiServer, Parts, wait_until

Object = dict[str, Any]
VLLM = {"matchLabels": {"app": "vllm"}}


def _objects(text: str) -> list[Object]:
    return [thing for thing in yaml.load_all(text, yaml.CSafeLoader) if thing]


def _values(folder: Path, values: Mapping[str, Any]) -> Path:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(dict(values)))
    return path


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
        pods = {
            thing["metadata"]["name"]: thing["spec"]["template"]["spec"]
            for thing in objects
            if thing["kind"] == "Deployment"
        }
        self.namespace = namespace
        self.name: str = pods["epp"]["serviceAccountName"]
        self.others: list[str] = [pods[name].get("serviceAccountName", "") for name in pods if name != "epp"]

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


def test_one_pool_reads_its_namespace_and_asks_about_scrapers(apiserver: ApiServer) -> None:
    account = Account(apiserver, apiserver.namespace(), render.CHART / "ci/one-pool.yaml")
    reviews = {("create", review) for review in REVIEWS}
    _check(account, account.namespace, _reads(*WATCHED) | EVENTS | reviews)
    _check(account, "default", reviews)


def test_a_selector_needs_no_pools(apiserver: ApiServer, tmp_path: Path) -> None:
    values = _values(tmp_path, {"pool": {**VLLM, "source": "selector"}, "metrics": {"auth": False}})
    account = Account(apiserver, apiserver.namespace(), values)
    _check(account, account.namespace, _reads("pods") | EVENTS)
    _check(account, "default", set())


def test_leader_election_adds_leases_of_its_namespace(apiserver: ApiServer, tmp_path: Path) -> None:
    values = _values(tmp_path, {"pool": VLLM, "leaderElection": True, "metrics": {"auth": False}})
    account = Account(apiserver, apiserver.namespace(), values)
    leases = {(verb, LEASES) for verb in ("get", "create", "update")}
    _check(account, account.namespace, _reads(*WATCHED) | EVENTS | leases)
    _check(account, "default", set())


def test_all_namespaces_are_read_but_leases_stay_at_home(apiserver: ApiServer, tmp_path: Path) -> None:
    values = {"mode": "many-pools", "pools": {"allNamespaces": True}, "leaderElection": True}
    account = Account(
        apiserver, apiserver.namespace(), _values(tmp_path, {**values, "metrics": {"auth": False}})
    )
    _check(account, "default", _reads(*WATCHED) | EVENTS)
    wait_until(lambda: account.may("create", LEASES, account.namespace), "leases at home")


def test_the_body_based_router_reads_config_maps_alone(apiserver: ApiServer, tmp_path: Path) -> None:
    values = _values(tmp_path, {"pool": VLLM, "routeByModel": {"enabled": True}})
    account = Account(apiserver, apiserver.namespace(), values)
    (account.name,) = account.others
    _check(account, account.namespace, _reads("configmaps"))
    _check(account, "default", set())


def test_whoever_grants_rights_himself_gets_none_from_the_chart(kube_parts: Parts, tmp_path: Path) -> None:
    everything = {"leaderElection": True, "routeByModel": {"enabled": True}, "replicas": 2}
    values = _values(tmp_path, {"pool": VLLM, **everything, "rbac": {"create": False}})
    objects = _objects(render.template(kube_parts.helm, values))
    assert not [thing for thing in objects if thing["apiVersion"].startswith("rbac.")]
    assert {"ServiceAccount", "Deployment"} <= {thing["kind"] for thing in objects}


def test_standalone_has_no_account_at_all(kube_parts: Parts) -> None:
    objects = _objects(render.template(kube_parts.helm, render.CHART / "ci/standalone.yaml"))
    assert not [thing for thing in objects if thing["apiVersion"].startswith("rbac.")]
    assert "ServiceAccount" not in {thing["kind"] for thing in objects}
    (pod,) = [thing["spec"]["template"]["spec"] for thing in objects if thing["kind"] == "Deployment"]
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod


def test_a_reader_of_metrics_may_get_metrics_alone(apiserver: ApiServer, tmp_path: Path) -> None:
    namespace = apiserver.namespace()
    reader = {"namespace": namespace, "name": "prometheus"}
    account = Account(
        apiserver, namespace, _values(tmp_path, {"pool": VLLM, "metrics": {"readers": [reader]}})
    )
    account.name = "prometheus"
    _check(account, namespace, set())
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

    def may_get(page: str) -> bool:
        spec = {
            "user": f"system:serviceaccount:{namespace}:prometheus",
            "nonResourceAttributes": {"path": page, "verb": "get"},
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return bool(apiserver.request("POST", path, review)["status"]["allowed"])

    wait_until(lambda: may_get("/metrics"), "the reader may get metrics")
    assert not may_get("/debug/decisions")
