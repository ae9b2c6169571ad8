"""Leader election by a Lease of the cluster, among the replicas of one picker.

Writes go through only in place of exactly what was read (`resourceVersion`). Who leads is decided in
`election`: here are the requests, the clock, and the word to whoever wants to know.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

from epp.domain.views import Clock
from epp.kube.api import KubeError
from epp.kube.election import Election, Record, Terms
from epp.kube.resource import Resource

LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
_NAME_CHARS = 253
_RIGHTS = (
    'a Role for this account needs {apiGroups: ["coordination.k8s.io"], resources: ["leases"], '
    'verbs: ["get", "create", "update"]}'
)
log = logging.getLogger("epp.kube")


class LeaseApi(Protocol):
    """What is asked of the API (epp.kube.api)."""

    async def get(self, path: str) -> dict[str, Any]: ...

    async def post(self, path: str, *, body: Any) -> dict[str, Any]: ...

    async def put(self, path: str, *, body: Any) -> dict[str, Any]: ...


def lease_name(namespace: str, pool: str) -> str:
    """Of the replicas that serve this pool."""
    name = f"epp-{namespace}-{pool}.llm-d.ai"
    if len(name) <= _NAME_CHARS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: _NAME_CHARS - 17].rstrip('.-')}-{digest}"


def identity_of(environ: Mapping[str, str], host: str) -> str:
    """The pod's name, and what tells this process from others of that name."""
    return f"{environ.get('POD_NAME') or host}_{uuid4().hex}"


class Lease:
    """`run` takes part until cancelled, and gives the lead back then."""

    def __init__(
        self,
        api: LeaseApi,
        namespace: str,
        name: str,
        identity: str,
        *,
        terms: Terms | None = None,
        on_change: Callable[[bool], None] | None = None,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """`on_change` is told on the event loop whether we lead, each time that this changes."""
        self._api = api
        self._list_path = LEASES.path(namespace)
        self._path = LEASES.path(namespace, name)
        self._metadata = {"name": name, "namespace": namespace}
        self._terms = terms or Terms()
        self._election = Election(identity, self._terms)
        self._on_change = on_change
        self._clock = clock
        self._rng = rng or random.Random()
        self._ours: dict[str, Any] | None = None
        """The Lease as we wrote it last; None when it must be read before the next write."""
        self._told = False
        self._step_down: asyncio.TimerHandle | None = None
        self.trouble = ""
        """Why the Lease could not be read or written at the last attempt; empty when it could."""

    @property
    def is_leader(self) -> bool:
        """Right now; true to the clock even where the event loop came late."""
        return self._election.is_leader(self._clock())

    @property
    def holder(self) -> str:
        """The identity that the Lease named last; empty for nobody."""
        return self._election.holder

    async def run(self) -> None:
        try:
            while True:
                await self._attempt()
                self._tell()
                # Spread, and never later than the terms say.
                await asyncio.sleep(self._election.wait_s(self._clock()) * self._rng.uniform(0.9, 1.0))
        finally:
            held = self._election.is_leader(self._clock())
            self._election.resign()
            self._tell()
            if held:
                await self._release()

    async def _attempt(self) -> None:
        trouble = ""
        try:
            # A leader has to try more than once before its time is up.
            async with asyncio.timeout(self._terms.renew_s / 2):
                await self._take()
        except KubeError as error:
            self._ours = None
            if error.status != 409:  # with 409 someone else was faster
                trouble = f"{self._path}: {error}"
                if error.status == 403:
                    trouble += f"; {_RIGHTS}"
        except TimeoutError:
            self._ours = None
            trouble = f"{self._path}: no answer in {self._terms.renew_s / 2:g} s"
        if trouble and not self.trouble:
            log.warning("the lease cannot be followed: %s", trouble)
        self.trouble = trouble

    async def _take(self) -> None:
        """Write our record, if the one that stands there allows it."""
        raw = self._ours
        if raw is None:
            raw = await self._read()
            self._election.saw(None if raw is None else _record(raw), self._clock())
        if not self._election.may_write(self._clock()):
            return
        before = Record() if raw is None else _record(raw)
        sent_at, body = self._clock(), self._body(raw, before)
        if raw is None:
            written = await self._api.post(self._list_path, body=body)
        else:
            written = await self._api.put(self._path, body=body)
        self._election.wrote(_record(written), sent_at, self._clock())
        self._ours = written

    async def _read(self) -> dict[str, Any] | None:
        try:
            return await self._api.get(self._path)
        except KubeError as error:
            if error.status == 404 and error.reason == "NotFound":
                return None
            raise

    async def _release(self) -> None:
        """So that others need not wait for its end."""
        try:
            async with asyncio.timeout(self._terms.renew_s / 2):
                while not await self._emptied():
                    pass
        except (KubeError, TimeoutError) as error:
            log.warning("the lease could not be given back, others wait for its end: %s", error)

    async def _emptied(self) -> bool:
        """False where our last renewal, broken off on our side, arrived after all: to be read again."""
        raw, self._ours = self._ours, None
        if raw is None:
            raw = await self._read()
        if raw is None or _record(raw).holder != self._election.identity:
            return True
        now = _now()
        spec = {
            **raw["spec"],
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "acquireTime": now,
            "renewTime": now,
        }
        try:
            await self._api.put(self._path, body={**raw, "spec": spec})
        except KubeError as error:
            if error.status == 409:
                return False
            raise
        return True

    def _body(self, raw: Mapping[str, Any] | None, before: Record) -> dict[str, Any]:
        now, ours = _now(), before.holder == self._election.identity
        spec = {
            **((raw or {}).get("spec") or {}),
            "holderIdentity": self._election.identity,
            "leaseDurationSeconds": int(self._terms.lease_s),
            "acquireTime": before.acquired if ours else now,
            "renewTime": now,
            "leaseTransitions": before.transitions + (raw is not None and not ours),
        }
        if raw is not None:
            return {**raw, "spec": spec}
        kind = {"apiVersion": LEASES.api_version, "kind": LEASES.kind}
        return {**kind, "metadata": self._metadata, "spec": spec}

    def _tell(self) -> None:
        """Also at the moment when the lead ends unless it is renewed."""
        if self._step_down is not None:
            self._step_down.cancel()
            self._step_down = None
        now = self._clock()
        leads = self._election.is_leader(now)
        if leads:
            left_s = self._election.leads_until - now
            self._step_down = asyncio.get_running_loop().call_later(left_s, self._tell)
        if leads == self._told:
            return
        self._told = leads
        if leads:
            log.info("this replica leads: lease %s", self._path)
        else:
            log.warning("this replica does not lead any more: lease %s", self._path)
        if self._on_change is not None:
            self._on_change(leads)


def _record(raw: Mapping[str, Any]) -> Record:
    spec = raw.get("spec") or {}
    return Record(
        holder=spec.get("holderIdentity") or "",
        duration_s=float(spec.get("leaseDurationSeconds") or 0),
        acquired=spec.get("acquireTime") or "",
        renewed=spec.get("renewTime") or "",
        transitions=int(spec.get("leaseTransitions") or 0),
    )


def _now() -> str:
    """For people who look: nobody counts with it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
