"""Leader election by a real Lease: one leads, another follows when it stops, by its own will or not."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.stack import Child
from epp.kube.api import Kube
from epp.kube.election import Terms
from epp.kube.lease import LEASES, Lease, identity_of, lease_name

from .rig import ADMIN, ApiServer, until, wait_until

QUICK = Terms(lease_s=4.0, renew_s=3.0, retry_s=0.2)
"""Long enough for a busy machine to renew in time."""
NAME = "epp-prod-chat.llm-d.ai"


class Replica:
    """One candidate in this process."""

    def __init__(self, kube: Kube, namespace: str, name: str, terms: Terms) -> None:
        self.changes: list[bool] = []
        self.lease = Lease(kube, namespace, NAME, name, terms=terms, on_change=self.changes.append)
        self.task = asyncio.create_task(self.lease.run())

    async def stop(self) -> None:
        """As on SIGTERM."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def replicas(
    server: ApiServer, namespace: str, *names: str, terms: Terms = QUICK, user: str = ADMIN
) -> AsyncIterator[list[Replica]]:
    """Started in this order, the first leads."""
    kube = await Kube.open(server.kubeconfig(user), {})
    found: list[Replica] = []
    try:
        for name in names:
            found.append(Replica(kube, namespace, name, terms))
            await until(
                lambda: found[-1].lease.holder != "" or bool(found[-1].lease.trouble), "it has looked"
            )
        yield found
    finally:
        for one in found:
            await one.stop()
        await kube.close()


def spec(server: ApiServer, namespace: str) -> dict[str, Any]:
    held: dict[str, Any] = server.request("GET", LEASES.path(namespace, NAME))["spec"]
    return held


def holder(server: ApiServer, namespace: str) -> str | None:
    """None while there is no Lease."""
    items = server.request("GET", LEASES.path(namespace))["items"]
    return items[0]["spec"]["holderIdentity"] if items else None


async def test_the_first_leads_and_gives_the_lead_back(apiserver: ApiServer, namespace: str) -> None:
    """The terms are so long that nobody could follow by waiting."""
    terms = Terms(lease_s=600.0, renew_s=500.0, retry_s=0.2)
    async with replicas(apiserver, namespace, "a", "b", terms=terms) as (a, b):
        await until(lambda: a.lease.is_leader, "a leads")
        assert not b.lease.is_leader
        held = spec(apiserver, namespace)
        assert (held["holderIdentity"], held["leaseDurationSeconds"], held["leaseTransitions"]) == (
            "a",
            600,
            0,
        )
        renewed = held["renewTime"]
        await until(lambda: spec(apiserver, namespace)["renewTime"] != renewed, "a renews")
        assert spec(apiserver, namespace)["acquireTime"] == held["acquireTime"]
        await a.stop()
        assert a.changes == [True, False]
        await until(lambda: b.lease.is_leader, "b follows")
        assert spec(apiserver, namespace)["leaseTransitions"] == 1
        assert b.changes == [True]
    assert spec(apiserver, namespace)["holderIdentity"] == ""


async def test_a_leader_that_is_killed_is_followed(
    apiserver: ApiServer, namespace: str, tmp_path: Path
) -> None:
    """By another process, whose end nobody here is told of."""
    arguments = {
        "kubeconfig": str(apiserver.kubeconfig()),
        "namespace": namespace,
        "name": NAME,
        "terms": [QUICK.lease_s, QUICK.renew_s, QUICK.retry_s],
    }
    argv = [sys.executable, "-m", "tests.kube.candidate", json.dumps(arguments)]
    other = Child("candidate", argv, tmp_path / "candidate.log")
    try:
        wait_until(lambda: "leads" in (tmp_path / "candidate.log").read_text(), "the process leads")
        async with replicas(apiserver, namespace, "b") as (b,):
            assert b.lease.holder == "candidate"
            assert not b.lease.is_leader
            other.kill()
            await until(lambda: b.lease.is_leader, "b follows")
            assert spec(apiserver, namespace)["holderIdentity"] == "b"
    finally:
        other.kill()


async def test_who_cannot_renew_steps_down_and_leads_again(
    private_apiserver: Callable[[], ApiServer],
) -> None:
    server = private_apiserver()
    namespace = server.namespace()
    async with replicas(server, namespace, "a") as (a,):
        await until(lambda: a.lease.is_leader, "a leads")
        server.kill()
        await until(lambda: not a.lease.is_leader, "a steps down")
        await until(lambda: a.changes == [True, False], "that is told")
        assert NAME in a.lease.trouble
        server.restart()
        await until(lambda: a.lease.is_leader, "a leads again")
        assert a.lease.trouble == ""
        assert a.changes == [True, False, True]


async def test_an_api_that_hangs(private_apiserver: Callable[[], ApiServer]) -> None:
    """Nothing comes back, not even an error; that the lead has ended is told all the same."""
    server = private_apiserver()
    namespace = server.namespace()
    async with replicas(server, namespace, "a") as (a,):
        await until(lambda: a.lease.is_leader, "a leads")
        server.process.pause()
        await until(lambda: a.changes == [True, False], "it is told that a does not lead")
        await until(lambda: "no answer" in a.lease.trouble, "a says why")
        server.process.resume()
        await until(lambda: a.lease.is_leader, "a leads again")


async def test_a_lease_that_is_deleted_or_taken_by_hand(apiserver: ApiServer, namespace: str) -> None:
    async with replicas(apiserver, namespace, "a") as (a,):
        await until(lambda: a.lease.is_leader, "a leads")
        path = LEASES.path(namespace, NAME)
        apiserver.request("DELETE", path)
        await until(lambda: holder(apiserver, namespace) == "a", "a makes a new one")
        await until(lambda: a.lease.is_leader, "and leads")
        body = {"spec": {"holderIdentity": "someone", "leaseDurationSeconds": 1}}
        apiserver.request("PATCH", path, body, content="application/merge-patch+json")
        await until(lambda: not a.lease.is_leader, "a sees that another is named")
        assert a.lease.holder == "someone"
        await until(lambda: a.lease.is_leader, "a waits for the end of that one's second")


async def test_others_may_write_into_the_lease(apiserver: ApiServer, namespace: str) -> None:
    """Labels of an operator stay, and cost no lead."""
    async with replicas(apiserver, namespace, "a") as (a,):
        await until(lambda: a.lease.is_leader, "a leads")
        body = {"metadata": {"labels": {"team": "x"}}}
        path = LEASES.path(namespace, NAME)
        apiserver.request("PATCH", path, body, content="application/merge-patch+json")
        renewed = spec(apiserver, namespace)["renewTime"]
        await until(lambda: spec(apiserver, namespace)["renewTime"] != renewed, "a renews")
        assert apiserver.request("GET", path)["metadata"]["labels"] == {"team": "x"}
        assert a.changes == [True]


async def test_without_rights_nobody_leads(apiserver: ApiServer, namespace: str) -> None:
    async with replicas(apiserver, namespace, "a", user="alice") as (a,):
        assert "403" in a.lease.trouble
        assert not a.lease.is_leader
        rules = [
            {"apiGroups": [LEASES.group], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        ]
        apiserver.grant("alice", namespace, rules)
        await until(lambda: a.lease.is_leader, "a leads")


async def test_many_replicas_have_one_leader(apiserver: ApiServer, namespace: str) -> None:
    """They begin in the same moment; whoever goes is followed by one."""
    kube = await Kube.open(apiserver.kubeconfig(), {})
    found = [Replica(kube, namespace, f"r{i}", QUICK) for i in range(5)]

    def leaders() -> list[Replica]:
        leading = [one for one in found if one.lease.is_leader]
        assert len(leading) <= 1
        return leading

    while found:
        await until(lambda: bool(leaders()), "one leads")
        (leader,) = leaders()
        found.remove(leader)
        await leader.stop()
    await kube.close()


def test_names() -> None:
    assert lease_name("prod", "chat") == NAME
    long = lease_name("n" * 63, "p" * 253)
    assert len(long) <= 253
    assert long != lease_name("n" * 63, "p" * 252 + "q")
    assert identity_of({"POD_NAME": "epp-0"}, "host").startswith("epp-0_")
    assert identity_of({}, "host").startswith("host_")
    assert identity_of({}, "host") != identity_of({}, "host")


def test_the_usual_terms() -> None:
    assert Terms() == Terms(15.0, 10.0, 2.0)
    with pytest.raises(ValueError, match="must have"):
        Terms(renew_s=20.0)
