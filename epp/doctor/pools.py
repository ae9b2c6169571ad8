"""InferencePools: whether they are right, select pods that are ready, and name a picker that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from epp.config.problems import Report, spell
from epp.doctor.finding import Finding, error, listed, ok, skipped, warning
from epp.domain.endpoint import EndpointSpec
from epp.domain.pool import POOL_GROUP, PoolSpec
from epp.kube.api import Kube, KubeError
from epp.kube.pods import endpoints, mistakes, read_pod
from epp.kube.pools import LEGACY_POOLS, POOLS, read_legacy_pool, read_pool
from epp.kube.resource import PODS, Resource

MAX_POOLS = 50
"""Looked at one by one; of more the first ones."""
MAX_PODS = 500
SERVICES = Resource("", "v1", "services", "Service")
SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")


@dataclass(slots=True)
class Pools:
    findings: list[Finding] = field(default_factory=list)
    specs: list[EndpointSpec] = field(default_factory=list)
    pools: list[PoolSpec] = field(default_factory=list)


async def check_pool(kube: Kube, namespace: str, name: str, group: str) -> Pools:
    """One by its name."""
    resource = POOLS if group == POOL_GROUP else LEGACY_POOLS
    found = Pools()
    try:
        raw = await kube.get(resource.path(namespace, name))
    except KubeError as problem:
        found.findings.append(_unread(f"pool {namespace}/{name}", problem))
        return found
    await _pool(kube, raw, resource, found)
    return found


async def check_pools(kube: Kube, namespace: str | None, labels: str) -> Pools:
    """All of one namespace, or of all of them, of both groups."""
    found = Pools()
    seen = 0
    for resource in (POOLS, LEGACY_POOLS):
        try:
            listing = await kube.get(
                resource.path(namespace), params={"labelSelector": labels, "limit": MAX_POOLS + 1}
            )
        except KubeError as problem:
            if problem.status != 404:
                found.findings.append(_unread(f"pools of {resource.group}", problem))
            continue
        rows = listing.get("items") or []
        seen += len(rows)
        for raw in rows[:MAX_POOLS]:
            await _pool(kube, raw, resource, found)
        if len(rows) > MAX_POOLS:
            found.findings.append(skipped(f"pools of {resource.group}", f"those after the first {MAX_POOLS}"))
    if not seen and not found.findings:
        found.findings.append(error("pools", "there are none", "create an InferencePool, or look elsewhere"))
    return found


async def check_pods_alone(kube: Kube, namespace: str, selector: str, ports: tuple[int, ...]) -> Pools:
    """Pods by their labels, without an InferencePool."""
    found = Pools()
    spec = PoolSpec(namespace, "", selector, ports, group="")
    await _pods(kube, f"pods {selector} of namespace {namespace}", spec, found)
    return found


def _unread(subject: str, problem: KubeError) -> Finding:
    if problem.status == 404:
        return error(subject, "there is none", "create it, or correct --pool-name, -namespace and -group")
    return error(subject, str(problem), "see the findings about rights and the API server")


async def _pool(kube: Kube, raw: Mapping[str, Any], resource: Resource, found: Pools) -> None:
    metadata = raw.get("metadata") or {}
    subject = f"pool {metadata.get('namespace')}/{metadata.get('name')}"
    report = Report(subject)
    spec = (read_pool if resource is POOLS else read_legacy_pool)(raw, report)
    for problem in report.problems:
        found.findings.append(
            error(subject, f"{spell(problem.path)}: {problem.message}", "correct the pool: it is not served")
        )
    for notice in report.notices:
        found.findings.append(warning(subject, f"{spell(notice.path)}: {notice.message}", "correct the pool"))
    found.findings += _conditions(subject, raw)
    if spec is None:
        return
    found.pools.append(spec)
    await _pods(kube, subject, spec, found)
    if spec.picker_service:
        found.findings += await _service(kube, spec)


def _conditions(subject: str, raw: Mapping[str, Any]) -> Iterator[Finding]:
    """What its gateways say."""
    status = raw.get("status") or {}
    parents = status.get("parents") or status.get("parent") or []
    for parent in parents if isinstance(parents, list) else []:
        ref = parent.get("parentRef") or {}
        if ref.get("kind") == "Status":  # what the CRD writes before a gateway has looked
            continue
        for one in parent.get("conditions") or []:
            if one.get("type") in ("Accepted", "ResolvedRefs") and one.get("status") == "False":
                yield error(
                    subject,
                    f"gateway {ref.get('name')}: {one.get('type')} is False: {one.get('reason')}: "
                    f"{str(one.get('message', ''))[:300]}",
                    "the gateway's controller says what it lacks: the reference, its version or its rights",
                )
    if not parents:
        yield warning(
            subject,
            "no gateway has taken it",
            "let an HTTPRoute name it as a backend (kind InferencePool), and look at the gateway's log",
        )


async def _pods(kube: Kube, subject: str, spec: PoolSpec, found: Pools) -> None:
    try:
        listing = await kube.get(
            PODS.path(spec.namespace), params={"labelSelector": spec.selector, "limit": MAX_PODS}
        )
    except KubeError as problem:
        found.findings.append(_unread(f"pods of {subject}", problem))
        return
    rows = listing.get("items") or []
    pods = [read_pod(raw) for raw in rows]
    if not pods:
        found.findings.append(
            error(subject, f"its selector {spec.selector} matches no pod: 503", "correct selector or labels")
        )
        return
    waiting = [pod.name for pod in pods if not pod.ready]
    specs = [one for pod in pods for one in endpoints(pod, spec)]
    found.specs += specs
    for pod in pods:
        found.findings += [
            warning(f"pod {pod.key}", text, "correct the annotation") for text in mistakes(pod, spec)
        ]
    found.findings += _ports(subject, spec, rows)
    ready = len(pods) - len(waiting)
    counted = f"{ready} of {len(pods)} pods are ready, {len(specs)} endpoints"
    if not specs:
        mend = "look at the pods' events and readiness probes; a model that loads takes minutes"
        found.findings.append(error(subject, f"{counted}: 503", mend))
    elif waiting:
        mend = "look at the pods' events and readiness probes"
        found.findings.append(warning(subject, f"{counted}; not {listed(waiting)}", mend))
    else:
        found.findings.append(ok(subject, counted))


def _ports(subject: str, spec: PoolSpec, pods: list[Mapping[str, Any]]) -> Iterator[Finding]:
    """A target port that no container of any pod declares, where they declare some."""
    declared = {
        port.get("containerPort")
        for raw in pods
        for container in (raw.get("spec") or {}).get("containers") or []
        for port in container.get("ports") or []
    }
    lost = [str(port) for port in spec.target_ports if port not in declared]
    if declared and lost:
        yield warning(
            subject,
            f"target port {listed(lost)} is declared by no container of its pods, which declare "
            f"{listed(sorted(str(port) for port in declared))}",
            "correct targetPorts of the pool, or the containers' ports",
        )


async def _service(kube: Kube, spec: PoolSpec) -> list[Finding]:
    subject = f"picker's Service {spec.namespace}/{spec.picker_service}"
    try:
        raw = await kube.get(SERVICES.path(spec.namespace, spec.picker_service))
    except KubeError as problem:
        if problem.status == 404:
            mend = "create it, or correct endpointPickerRef of the pool"
            return [error(subject, f"pool {spec.key} names it, and there is none", mend)]
        return [skipped(subject, str(problem), "allow reading services to whoever runs this")]
    ports = (raw.get("spec") or {}).get("ports") or []
    numbers = [port.get("port") for port in ports]
    if spec.picker_port not in numbers:
        mend = "correct endpointPickerRef.port of the pool, or add the port to the Service"
        return [error(subject, f"it has no port {spec.picker_port}, which pool {spec.key} names", mend)]
    try:
        ready = await _ready(kube, spec)
    except KubeError as problem:
        return [skipped(subject, str(problem), "allow reading endpointslices to whoever runs this")]
    if not ready:
        mend = "is the picker running and ready, and does the Service's selector match its pods?"
        return [error(subject, "no ready picker is behind it: every request fails", mend)]
    return [ok(subject, f"port {spec.picker_port}, {ready} ready")]


async def _ready(kube: Kube, spec: PoolSpec) -> int:
    """Addresses behind the picker's Service."""
    labels = f"kubernetes.io/service-name={spec.picker_service}"
    listing = await kube.get(SLICES.path(spec.namespace), params={"labelSelector": labels, "limit": 100})
    return len(
        {
            address
            for piece in listing.get("items") or []
            for one in piece.get("endpoints") or []
            if (one.get("conditions") or {}).get("ready") is not False
            for address in one.get("addresses") or []
        }
    )
