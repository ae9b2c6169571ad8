"""Objectives and rewrites: whether they are right, and refer to a pool that is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from epp.config.objectives import OBJECTIVE
from epp.config.objects import Kind
from epp.config.problems import Report, nearest, spell
from epp.config.rewrites import REWRITE
from epp.doctor.finding import Finding, error, skipped, warning
from epp.kube.api import Kube, KubeError
from epp.kube.attached import GROUPS, PoolId, read_attached
from epp.kube.pools import LEGACY_POOLS, POOLS
from epp.kube.resource import Resource

MAX_OBJECTS = 500
"""Of each kind and group."""
_KINDS: Mapping[str, Kind[Any]] = {"inferenceobjectives": OBJECTIVE, "inferencemodelrewrites": REWRITE}


async def check_attached(kube: Kube, namespace: str | None) -> list[Finding]:
    """Those of one namespace, or of all. What may not be read is a finding of rights."""
    pools: set[PoolId] | None = set()
    for resource in (POOLS, LEGACY_POOLS):
        listed = await _listed(kube, resource, namespace)
        if listed is None or len(listed) > MAX_OBJECTS:
            pools = None  # whether one is there cannot be said
        elif pools is not None:
            pools |= {PoolId(space, resource.group, name) for space, name in map(_place, listed)}
    findings: list[Finding] = []
    for plural, kind in _KINDS.items():
        for group in GROUPS:
            resource = Resource(group, "v1alpha2", plural, kind.name)
            rows = await _listed(kube, resource, namespace) or []
            for raw in rows[:MAX_OBJECTS]:
                findings += _judged(kind, raw, pools)
            if len(rows) > MAX_OBJECTS:
                findings.append(skipped(f"{resource}", f"those after the first {MAX_OBJECTS}"))
    return findings


async def _listed(kube: Kube, resource: Resource, namespace: str | None) -> list[Mapping[str, Any]] | None:
    """None where they may not be read; nothing where the kind is not installed."""
    try:
        listing = await kube.get(resource.path(namespace), params={"limit": MAX_OBJECTS + 1})
    except KubeError as problem:
        return [] if problem.status == 404 else None
    return listing.get("items") or []


def _judged(kind: Kind[Any], raw: Mapping[str, Any], pools: set[PoolId] | None) -> list[Finding]:
    namespace, name = _place(raw)
    subject = f"{kind.name} {namespace}/{name}"
    report = Report(subject)
    read = read_attached(kind, raw, report)
    findings = [
        error(subject, f"{spell(one.path)}: {one.message}", "correct it: it has no effect")
        for one in report.problems
    ]
    findings += [
        warning(subject, f"{spell(one.path)}: {one.message}", "correct it") for one in report.notices
    ]
    if read is not None and pools is not None and read.pool not in pools:
        near = [one for one in pools if one.namespace == namespace]
        other = [one.group for one in near if one.name == read.pool.name]
        mend = f"it has no effect: correct poolRef{nearest(read.pool.name, [one.name for one in near])}"
        if other:
            mend = f"write poolRef.group: {other[0]}, where the pool of that name is"
        found = f"refers to pool {read.pool.name} of {read.pool.group}, and there is none in its namespace"
        findings.append(warning(subject, found, mend))
    return findings


def _place(raw: Mapping[str, Any]) -> tuple[str, str]:
    metadata = raw.get("metadata") or {}
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))
