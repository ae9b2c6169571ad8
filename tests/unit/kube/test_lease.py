"""The end of a lead, against an API that keeps a Lease as the real one does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from epp.kube.api import KubeError
from epp.kube.election import Terms
from epp.kube.lease import Lease
from tests.kube.server import until

TERMS = Terms(lease_s=600.0, renew_s=500.0, retry_s=0.01)


class OneLease:
    """A LeaseApi. While `slow` is set, what is written is kept at once and answered never."""

    def __init__(self) -> None:
        self.held: dict[str, Any] | None = None
        self.slow = False
        self.writes = 0

    async def get(self, path: str) -> dict[str, Any]:
        if self.held is None:
            raise KubeError(404, "NotFound", "no such lease")
        return self.held

    async def post(self, path: str, *, body: Any) -> dict[str, Any]:
        return await self._keep(body)

    async def put(self, path: str, *, body: Any) -> dict[str, Any]:
        assert self.held is not None
        if body["metadata"]["resourceVersion"] != self.held["metadata"]["resourceVersion"]:
            raise KubeError(409, "Conflict", "the object has been modified")
        return await self._keep(body)

    async def _keep(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.writes += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.writes)}
        self.held = {**body, "metadata": metadata}
        if self.slow:
            self.slow = False
            await asyncio.Event().wait()
        return self.held

    @property
    def holder(self) -> str:
        return "" if self.held is None else str(self.held["spec"]["holderIdentity"])


async def test_the_lead_is_given_back_though_a_renewal_was_broken_off() -> None:
    api = OneLease()
    lease = Lease(api, "ns", "name", "a", terms=TERMS)
    running = asyncio.create_task(lease.run())
    await until(lambda: lease.is_leader, "it leads")
    api.slow = True
    await until(lambda: not api.slow, "a renewal is on its way, and kept")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert api.holder == ""


async def test_nothing_is_given_back_that_another_has_taken() -> None:
    api = OneLease()
    lease = Lease(api, "ns", "name", "a", terms=TERMS)
    running = asyncio.create_task(lease.run())
    await until(lambda: lease.is_leader, "it leads")
    api.slow = True
    await until(lambda: not api.slow, "a renewal is on its way, and kept")
    assert api.held is not None
    other = {**api.held, "spec": {**api.held["spec"], "holderIdentity": "b"}}
    await api.put("", body=other)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert api.holder == "b"
