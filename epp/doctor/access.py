"""What an account may do: each verb that the picker needs is asked of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epp.doctor.finding import Finding, Level, error, listed, ok, skipped, warning
from epp.doctor.kinds import ATTACHED, POOLS
from epp.kube.api import Kube, KubeError
from epp.kube.attached import GROUPS

_SELF = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_OTHER = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_WATCH = ("get", "list", "watch")
_ROLES = "deploy/kustomize and the Helm chart have the least roles"


@dataclass(frozen=True, slots=True)
class Need:
    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str
    level: Level = Level.ERROR
    """Of what it is to be without."""
    everywhere: bool = False
    """Not of one namespace."""


def needs(
    pool_groups: Sequence[str],
    *,
    everywhere: bool = False,
    leader: bool = False,
    slices: bool = False,
) -> list[Need]:
    """`pool_groups`: of the pools that are served; without any, nothing is attached to them.
    `slices`: endpoints come from them instead of pods."""
    source = ("discovery.k8s.io", "endpointslices") if slices else ("", "pods")
    found = [Need(*source, _WATCH, "endpoints come from them", everywhere=everywhere)]
    found += [
        Need(group, POOLS, _WATCH, "what is served is read from them", everywhere=everywhere)
        for group in pool_groups
    ]
    found += [
        Need(group, plural, _WATCH, f"without: no {what}", Level.WARNING, everywhere)
        for plural, what in (ATTACHED.items() if pool_groups else ())
        for group in GROUPS
    ]
    why = "without: nothing says what is wrong with an object"
    found.append(Need("", "events", ("create",), why, Level.WARNING, everywhere))
    if leader:
        found.append(
            Need("coordination.k8s.io", "leases", ("get", "create", "update"), "one replica leads by it")
        )
    why = "without: nobody reads metrics, or --metrics-endpoint-auth=false"
    return [
        *found,
        Need("authentication.k8s.io", "tokenreviews", ("create",), why, Level.WARNING, True),
        Need("authorization.k8s.io", "subjectaccessreviews", ("create",), why, Level.WARNING, True),
    ]


async def check_access(kube: Kube, wanted: Sequence[Need], namespace: str, account: str) -> list[Finding]:
    """`account`: a service account as `namespace/name`; empty for whoever asks."""
    who = f"service account {account}" if account else "this account"
    try:
        missing = await asyncio.gather(*(_missing(kube, need, namespace, account) for need in wanted))
    except KubeError as problem:
        if account and problem.status == 403:
            mend = "ask as somebody who may create subjectaccessreviews (a cluster's administrator)"
            return [skipped(f"rights of {who}", problem.message, mend)]
        return [skipped(f"rights of {who}", str(problem))]
    findings: list[Finding] = []
    for need, verbs in zip(wanted, missing, strict=True):
        if verbs:
            name = f"{need.resource}.{need.group}" if need.group else need.resource
            where = "in all namespaces" if need.everywhere else f"in namespace {namespace}"
            kind = "ClusterRole" if need.everywhere else "Role"
            findings.append(
                (error if need.level is Level.ERROR else warning)(
                    f"rights of {who}",
                    f"may not {', '.join(verbs)} {name} {where} ({need.why})",
                    f"bind it a {kind} with verbs [{', '.join(need.verbs)}] on {name}; {_ROLES}",
                )
            )
    allowed = [need.resource for need, verbs in zip(wanted, missing, strict=True) if not verbs]
    if allowed:
        findings.append(
            ok(f"rights of {who}", f"all that is needed of {listed(list(dict.fromkeys(allowed)))}")
        )
    return findings


async def _missing(kube: Kube, need: Need, namespace: str, account: str) -> list[str]:
    return [verb for verb in need.verbs if not await _may(kube, need, verb, namespace, account)]


async def _may(kube: Kube, need: Need, verb: str, namespace: str, account: str) -> bool:
    asked: dict[str, Any] = {"group": need.group, "resource": need.resource, "verb": verb}
    if not need.everywhere:
        asked["namespace"] = namespace
    spec: dict[str, Any] = {"resourceAttributes": asked}
    kind = "SelfSubjectAccessReview"
    if account:
        kind = "SubjectAccessReview"
        space, _, name = account.partition("/")
        spec["user"] = f"system:serviceaccount:{space}:{name}"
        spec["groups"] = [
            "system:serviceaccounts",
            f"system:serviceaccounts:{space}",
            "system:authenticated",
        ]
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    status = (await kube.post(_OTHER if account else _SELF, body=body)).get("status")
    return isinstance(status, Mapping) and status.get("allowed") is True
