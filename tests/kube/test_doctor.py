"""`epp doctor` on a real API server: what a new user gets wrong, one thing after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from click.testing import CliRunner

from epp.cli.doctor import doctor
from epp.doctor.finding import Finding, Level
from epp.doctor.visit import Cluster, Patient, Visit
from tests.doctor.test_network import VLLM, listening

from .rig import ADMIN, ApiServer, Object, Parts, objective, pool, rewrite

LABELS = {"app": "vllm"}
READ = ["get", "list", "watch"]
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": READ}
POOLS = {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": READ}
ATTACHED = {
    "apiGroups": ["llm-d.ai", "inference.networking.x-k8s.io"],
    "resources": ["inferenceobjectives", "inferencemodelrewrites"],
    "verbs": READ,
}
EVENTS = {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}
LEASES = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}


async def look(server: ApiServer, namespace: str, *, user: str = ADMIN, **where: Any) -> list[Finding]:
    kubeconfig = server.kubeconfig(user, namespace=namespace)
    visit = Visit(Patient(cluster=Cluster(kubeconfig=kubeconfig, **where)), {})
    await visit.run()
    assert all(one.mend for one in visit.findings if one.level in (Level.ERROR, Level.WARNING))
    return visit.findings


def about(findings: Sequence[Finding], subject: str) -> list[tuple[Level, str]]:
    return [(one.level, one.found) for one in findings if one.subject.startswith(subject)]


def service(namespace: str, port: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "epp", "namespace": namespace},
        "spec": {"ports": [{"name": "grpc", "port": port}]},
    }


def endpointslice(namespace: str, ready: bool) -> Object:
    """As the controller makes it of a Service's pods."""
    labels = {"kubernetes.io/service-name": "epp"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "epp-1", "namespace": namespace, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": ready}}],
        "ports": [{"name": "grpc", "port": 9002}],
    }


async def test_from_nothing_to_a_pool_that_serves(apiserver: ApiServer, namespace: str) -> None:
    subject = f"pool {namespace}/llama"
    picker = f"picker's Service {namespace}/epp"

    findings = await look(apiserver, namespace, pool="llama")
    assert about(findings, subject) == [(Level.ERROR, "there is none")]
    assert [level for level, _ in about(findings, "API server")] == [Level.OK]
    assert [level for level, _ in about(findings, "inferencepools")] == [Level.OK]
    assert [level for level, _ in about(findings, "clocks")] == [Level.OK]

    async with listening(lambda request: web.Response(text=VLLM)) as port:
        apiserver.create(pool(namespace, "llama", LABELS, ports=[port]))
        findings = await look(apiserver, namespace, pool="llama")
        assert (Level.ERROR, "its selector app=vllm matches no pod: 503") in about(findings, subject)
        assert (Level.WARNING, "no gateway has taken it") in about(findings, subject)
        assert [level for level, _ in about(findings, picker)] == [Level.ERROR]

        apiserver.create(service(namespace, 9003))
        pod = apiserver.pod(namespace, "a", LABELS, ready=False)
        findings = await look(apiserver, namespace, pool="llama")
        assert (Level.ERROR, "0 of 1 pods are ready, 0 endpoints: 503") in about(findings, subject)
        assert about(findings, picker) == [
            (Level.ERROR, f"it has no port 9002, which pool {namespace}/llama names")
        ]

        apiserver.pod_status(pod)
        apiserver.patch(service(namespace, 9003), {"spec": {"ports": [{"name": "grpc", "port": 9002}]}})
        apiserver.create(endpointslice(namespace, ready=False))
        findings = await look(apiserver, namespace, pool="llama")
        assert (Level.OK, "1 of 1 pods are ready, 1 endpoints") in about(findings, subject)
        assert about(findings, f"endpoint 127.0.0.1:{port}") == [(Level.OK, "vllm's metrics")]
        assert about(findings, picker) == [(Level.ERROR, "no ready picker is behind it: every request fails")]

        ready = [{"addresses": ["10.1.2.3"], "conditions": {"ready": True}}]
        apiserver.patch(endpointslice(namespace, ready=False), {"endpoints": ready})
        taken = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}
        lost = {"type": "ResolvedRefs", "status": "False", "reason": "InvalidExtensionRef", "message": "no"}
        since = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
        parent = {"parentRef": {"name": "inference"}, "conditions": [taken | since, lost | since]}
        apiserver.patch(pool(namespace, "llama", LABELS), {"status": {"parents": [parent]}}, part="/status")
        findings = await look(apiserver, namespace, pool="llama")
        assert about(findings, picker) == [(Level.OK, "port 9002, 1 ready")]
        assert (Level.ERROR, "gateway inference: ResolvedRefs is False: InvalidExtensionRef: no") in about(
            findings, subject
        )

        resolved = lost | since | {"status": "True", "reason": "ResolvedRefs"}
        parent["conditions"] = [taken | since, resolved]
        apiserver.patch(pool(namespace, "llama", LABELS), {"status": {"parents": [parent]}}, part="/status")
        findings = await look(apiserver, namespace, pool="llama")
        assert [one for one in findings if one.level is Level.ERROR] == []


async def test_objects_that_refer_to_no_pool(apiserver: ApiServer, namespace: str) -> None:
    apiserver.create(pool(namespace, "llama", LABELS))
    apiserver.create(objective(namespace, "good", "llama", 5))
    apiserver.create(objective(namespace, "lost", "lama", 5))
    rules = [{"matches": [{"model": {"value": "a"}}], "targets": [{"modelRewrite": "b"}]}]
    apiserver.create(rewrite(namespace, "names", "elsewhere", rules, group="inference.networking.x-k8s.io"))
    findings = await look(apiserver, namespace, pool="llama")
    told = {one.subject.partition("/")[2]: one for one in findings if one.subject.startswith("Inference")}
    assert sorted(told) == ["lost", "names"]
    assert {one.level for one in told.values()} == {Level.WARNING}
    assert "lama of inference.networking.k8s.io" in told["lost"].found
    assert told["lost"].mend.endswith("did you mean 'llama'?")
    apiserver.delete(pool(namespace, "llama", LABELS))
    legacy = "inference.networking.x-k8s.io"
    spec = {"selector": LABELS, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}}
    metadata = {"name": "llama", "namespace": namespace}
    apiserver.create(
        {"apiVersion": f"{legacy}/v1alpha2", "kind": "InferencePool", "metadata": metadata, "spec": spec}
    )
    findings = await look(apiserver, namespace, pool="llama", group=legacy)
    (good,) = [one for one in findings if one.subject.endswith("/good")]
    assert good.mend == f"write poolRef.group: {legacy}, where the pool of that name is"


async def test_pods_alone_need_no_pools(apiserver: ApiServer, namespace: str) -> None:
    apiserver.grant("bob", namespace, [PODS, EVENTS])
    where = {"pods": "app=vllm", "user": "bob"}
    subject = f"pods app=vllm of namespace {namespace}"
    async with listening(lambda request: web.Response(text=VLLM)) as port:
        findings = await look(apiserver, namespace, ports=(port,), **where)
        assert [level for level, _ in about(findings, subject)] == [Level.ERROR]
        apiserver.pod(namespace, "a", LABELS)
        findings = await look(apiserver, namespace, ports=(port,), **where)
        assert about(findings, subject) == [(Level.OK, "1 of 1 pods are ready, 1 endpoints")]
        assert about(findings, f"endpoint 127.0.0.1:{port}") == [(Level.OK, "vllm's metrics")]
        assert [one for one in findings if one.level is Level.ERROR] == []
        assert about(findings, "inference") == []


async def test_ports_that_no_container_has(apiserver: ApiServer, namespace: str) -> None:
    apiserver.create(pool(namespace, "llama", LABELS, ports=[8000, 8001]))
    containers = [{"name": "engine", "image": "engine", "ports": [{"containerPort": 8000}]}]
    apiserver.pod(namespace, "a", LABELS, spec={"containers": containers})
    apiserver.pod(namespace, "b", LABELS, ready=False, annotations={"llm-d.ai/active-ports": "all"})
    findings = await look(apiserver, namespace, pool="llama")
    found = about(findings, f"pool {namespace}/llama")
    assert any(
        level is Level.WARNING and "target port 8001 is declared by no" in text for level, text in found
    )
    assert (Level.WARNING, "1 of 2 pods are ready, 2 endpoints; not b") in found
    assert [level for level, _ in about(findings, f"pod {namespace}/b")] == [Level.WARNING]


async def test_every_pool_of_a_namespace(apiserver: ApiServer, namespace: str) -> None:
    findings = await look(apiserver, namespace)
    assert about(findings, "pools") == [(Level.ERROR, "there are none")]
    for name in ("one", "two"):
        made = pool(namespace, name, {"app": name})
        made["metadata"]["labels"] = {"tier": name}
        apiserver.create(made)
    findings = await look(apiserver, namespace)
    assert {one.subject for one in findings} >= {f"pool {namespace}/one", f"pool {namespace}/two"}
    findings = await look(apiserver, namespace, pool_selector="tier=two")
    assert f"pool {namespace}/one" not in {one.subject for one in findings}


def rights(findings: Sequence[Finding]) -> Mapping[Level, list[str]]:
    found: dict[Level, list[str]] = {}
    for one in findings:
        if one.subject.startswith("rights of"):
            found.setdefault(one.level, []).append(one.found)
    return found


async def test_rights_that_are_missing(apiserver: ApiServer, namespace: str) -> None:
    apiserver.service_account(namespace, "epp")
    account = f"{namespace}/epp"
    found = rights(await look(apiserver, namespace, pool="llama", account=account, leader=True))
    assert [text.partition(" in ")[0] for text in found[Level.ERROR]] == [
        "may not get, list, watch pods",
        "may not get, list, watch inferencepools.inference.networking.k8s.io",
        "may not get, create, update leases.coordination.k8s.io",
    ]
    assert Level.OK not in found

    apiserver.grant("epp", namespace, [PODS, POOLS, LEASES], account=True)
    found = rights(await look(apiserver, namespace, pool="llama", account="epp", leader=True))
    assert Level.ERROR not in found
    assert [text.partition(" in ")[0] for text in found[Level.WARNING]][:1] == [
        "may not get, list, watch inferenceobjectives.llm-d.ai"
    ]

    apiserver.grant("epp", namespace, [ATTACHED, EVENTS], account=True)
    found = rights(await look(apiserver, namespace, pool="llama", account="epp"))
    # Those that only a ClusterRole gives.
    assert [text.partition(" in ")[0] for text in found[Level.WARNING]] == [
        "may not create tokenreviews.authentication.k8s.io",
        "may not create subjectaccessreviews.authorization.k8s.io",
    ]
    found = rights(await look(apiserver, namespace, pool="llama", account="epp", slices=True))
    assert [text.partition(" in ")[0] for text in found[Level.ERROR]] == [
        "may not get, list, watch endpointslices.discovery.k8s.io"
    ]
    found = rights(await look(apiserver, namespace, account="epp", all_namespaces=True))
    assert "may not get, list, watch pods in all namespaces (endpoints come from them)" in found[Level.ERROR]


async def test_somebody_with_few_rights(apiserver: ApiServer, namespace: str) -> None:
    """Of its own rights it is told; whose it may not ask about is left out, as what it cannot read."""
    findings = await look(apiserver, namespace, user="bob", pool="llama")
    assert Level.ERROR in rights(findings)
    (pool_finding,) = about(findings, f"pool {namespace}/llama")
    assert pool_finding[0] is Level.ERROR
    assert "403" in pool_finding[1]
    found = rights(await look(apiserver, namespace, user="bob", pool="llama", account="epp"))
    assert list(found) == [Level.SKIPPED]


async def test_an_api_server_that_is_not_there(apiserver: ApiServer, tmp_path: Path) -> None:
    text = apiserver.kubeconfig().read_text().replace(f":{apiserver.port}", ":1")
    (tmp_path / "kubeconfig").write_text(text)
    visit = Visit(Patient(cluster=Cluster(kubeconfig=tmp_path / "kubeconfig", pool="llama")), {})
    await visit.run()
    assert [(one.level, one.subject) for one in visit.findings] == [
        (Level.ERROR, "API server https://127.0.0.1:1")
    ]


async def test_a_cluster_without_our_kinds(kube_parts: Parts, tmp_path: Path) -> None:
    bare = ApiServer(kube_parts, tmp_path / "bare")
    try:
        bare.start()
        findings = await look(bare, "default", pool="llama")
        assert about(findings, "inferencepools") == [(Level.ERROR, "not installed")]
        assert [level for level, _ in about(findings, "inferenceobjectives")] == [Level.OK]
        bare.inference_crds()
        findings = await look(bare, "default", pool="llama")
        assert [level for level, _ in about(findings, "inferencepools")] == [Level.OK]
    finally:
        bare.stop()


def test_the_command(apiserver: ApiServer, namespace: str) -> None:
    kubeconfig = str(apiserver.kubeconfig(namespace=namespace))
    arguments = ["--kubeconfig", kubeconfig, "--pool-name", "llama", "--output", "json"]
    result = CliRunner().invoke(doctor, arguments)
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert {"level": "error", "found": "there is none"}.items() <= next(
        one for one in told if one["subject"] == f"pool {namespace}/llama"
    ).items()
    result = CliRunner().invoke(doctor, arguments[:-2])
    assert result.exit_code == 1
    assert "there is none" in result.stdout
