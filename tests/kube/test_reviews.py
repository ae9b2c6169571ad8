"""Who may read metrics, as a real API server says: tokens of service accounts, roles for paths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from epp.domain.access import ALLOWED, Access
from epp.kube.api import Kube
from epp.kube.reviews import Reviews

from .rig import ApiServer

OURS: list[dict[str, Any]] = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
]
THEIRS: list[dict[str, Any]] = [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


def grant(apiserver: ApiServer, namespace: str, account: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    """A ClusterRole of the rules, bound to a service account; returns the binding."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": f"{namespace}-{account}"},
        "rules": rules,
    }
    apiserver.create(role)
    return dict(
        apiserver.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": f"{namespace}-{account}"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": f"{namespace}-{account}",
                },
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
            }
        )
    )


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def reviewing(apiserver: ApiServer, namespace: str, clock: Clock) -> AsyncIterator[Reviews]:
    """As our own service account, which has a token like that of a pod."""
    kubeconfig = apiserver.kubeconfig(token=apiserver.token(namespace, "epp"))
    kube = await Kube.open(kubeconfig, {})
    try:
        yield Reviews(kube, clock=clock)
    finally:
        await kube.close()


async def becomes(one: Reviews, clock: Clock, token: str, path: str, status: int) -> Access:
    """The API server's authorizer follows roles a little later; our own memory is made to be old."""
    async with asyncio.timeout(30):
        while (access := await one.review(token, "get", path)).status != status:
            clock.now += 3600.0
            await asyncio.sleep(0.05)
    return access


async def test_tokens_and_roles(apiserver: ApiServer, namespace: str) -> None:
    for account in ("epp", "prometheus", "stranger"):
        apiserver.service_account(namespace, account)
    clock = Clock()
    async with reviewing(apiserver, namespace, clock) as one:
        token = apiserver.token(namespace, "prometheus")
        access = await one.review(token, "get", "/metrics")
        assert access == Access(
            503,
            "the cluster cannot be asked who may read this: our own account may not create "
            "tokenreviews.authentication.k8s.io",
        )
        grant(apiserver, namespace, "epp", OURS)
        binding = grant(apiserver, namespace, "prometheus", THEIRS)
        assert await becomes(one, clock, token, "/metrics", 200) == ALLOWED
        assert (await one.review(token, "post", "/metrics")).status == 403
        assert (await one.review(token, "get", "/debug/decisions")).status == 403
        stranger = await one.review(apiserver.token(namespace, "stranger"), "get", "/metrics")
        assert stranger.status == 403
        assert stranger.why.startswith(f"system:serviceaccount:{namespace}:stranger may not get /metrics")
        for made_up in ("x", "a.b.c", token[:-3]):
            assert (await one.review(made_up, "get", "/metrics")).status == 401
        apiserver.delete(binding)
        await becomes(one, clock, token, "/metrics", 403)


async def test_a_token_of_an_account_that_is_gone(apiserver: ApiServer, namespace: str) -> None:
    for account in ("epp", "prometheus"):
        made = apiserver.service_account(namespace, account)
    grant(apiserver, namespace, "epp", OURS)
    grant(apiserver, namespace, "prometheus", THEIRS)
    clock = Clock()
    async with reviewing(apiserver, namespace, clock) as one:
        token = apiserver.token(namespace, "prometheus")
        await becomes(one, clock, token, "/metrics", 200)
        apiserver.delete(made)
        await becomes(one, clock, token, "/metrics", 401)


@pytest.mark.timeout(180)
async def test_a_cluster_that_goes_away_for_a_while(private_apiserver: Any) -> None:
    apiserver: ApiServer = private_apiserver()
    namespace = apiserver.namespace()
    for account in ("epp", "prometheus"):
        apiserver.service_account(namespace, account)
    grant(apiserver, namespace, "epp", OURS)
    grant(apiserver, namespace, "prometheus", THEIRS)
    clock = Clock()
    async with reviewing(apiserver, namespace, clock) as one:
        token, late = (apiserver.token(namespace, "prometheus") for _ in range(2))
        await becomes(one, clock, token, "/metrics", 200)
        await asyncio.to_thread(apiserver.kill)
        clock.now += 360.0
        assert await one.review(token, "get", "/metrics") == ALLOWED
        assert (await one.review(late, "get", "/metrics")).status == 503
        await asyncio.to_thread(apiserver.restart)
        await becomes(one, clock, late, "/metrics", 200)
