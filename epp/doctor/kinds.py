"""The API server: its version and clock, and which of our kinds it knows."""

from __future__ import annotations

from collections.abc import Mapping

from epp.doctor.finding import Finding, error, ok, skipped
from epp.domain.pool import LEGACY_POOL_GROUP, POOL_GROUP
from epp.kube.api import Kube, KubeError
from epp.kube.attached import GROUPS

POOLS = "inferencepools"
ATTACHED = {"inferenceobjectives": "priorities", "inferencemodelrewrites": "model rewrites"}
_WANTED = {POOL_GROUP: "v1", LEGACY_POOL_GROUP: "v1alpha2", "llm-d.ai": "v1alpha2"}
_INSTALL = (
    "install the CRDs of the Gateway API Inference Extension; if the picker finds pods by their labels, give "
    "its --endpoint-selector and --endpoint-target-ports here too"
)


async def check_kinds(kube: Kube, pool_group: str) -> list[Finding]:
    """`pool_group`: of the pools that are to be served; empty where pods are served without any."""
    try:
        version = await kube.get("/version")
    except KubeError as problem:
        mend = "correct --kubeconfig or the API server's address; look at network policies"
        if problem.status == 401:
            mend = "these credentials are not accepted, or not any more: take other ones, or renew the token"
        return [error(f"API server {kube.server}", str(problem), mend)]
    findings = [ok(f"API server {kube.server}", str(version.get("gitVersion", "")))]
    if not pool_group:
        return findings
    served: dict[str, Mapping[str, list[str]]] = {}
    for group in _WANTED:
        try:
            served[group] = await _served(kube, group)
        except KubeError as problem:
            findings.append(
                skipped(f"API group {group}", str(problem), "allow reading /apis to this account")
            )
    if pool_group in served:
        findings.append(_pools(pool_group, served))
    for plural, what in ATTACHED.items():
        groups = [group for group in GROUPS if "v1alpha2" in served.get(group, {}).get(plural, ())]
        if groups:
            findings.append(ok(plural, f"served by {' and '.join(f'{group}/v1alpha2' for group in groups)}"))
        else:
            findings.append(ok(plural, f"not installed: no {what} from the cluster"))
    return findings


def _pools(group: str, served: Mapping[str, Mapping[str, list[str]]]) -> Finding:
    version, found = _WANTED.get(group, "v1"), served[group].get(POOLS, [])
    subject = f"{POOLS}.{group}"
    if version in found:
        return ok(subject, f"served: {', '.join(found)}")
    if found:
        mend = f"update the CRD to one that serves {version}"
        return error(subject, f"only {', '.join(found)} is served, not {version}", mend)
    others = [other for other in (POOL_GROUP, LEGACY_POOL_GROUP) if served.get(other, {}).get(POOLS)]
    if others:
        return error(subject, f"not installed, but {POOLS}.{others[0]} is", f"use --pool-group {others[0]}")
    return error(subject, "not installed", _INSTALL)


async def _served(kube: Kube, group: str) -> dict[str, list[str]]:
    """Versions by plural."""
    try:
        told = await kube.get(f"/apis/{group}")
    except KubeError as problem:
        if problem.status == 404:
            return {}
        raise
    found: dict[str, list[str]] = {}
    for row in told.get("versions") or []:
        version = str(row.get("version", ""))
        for resource in (await kube.get(f"/apis/{group}/{version}")).get("resources") or []:
            found.setdefault(str(resource.get("name", "")), []).append(version)
    return found
