"""Events: what is wrong with an object, where its owner looks (`kubectl describe`, `kubectl get events`).

Nothing waits for one. Each is said once in ten minutes, and all together a few a minute; what cannot be
written is logged once and let go. It needs the right to create events, and no other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias
from uuid import uuid4

from epp.domain.views import Clock
from epp.kube.api import KubeError
from epp.kube.resource import Resource

EVENTS = Resource("", "v1", "events", "Event")
COMPONENT = "epp"
AGAIN_S = 600.0
PER_MINUTE = 30
MAX_WAITING = 100
_MESSAGE_CHARS = 1024
_NAME_CHARS = 253
log = logging.getLogger("epp.kube")

_Said: TypeAlias = tuple[str, str, str, str, str]


class EventApi(Protocol):
    """What is asked of the API (epp.kube.api)."""

    async def post(self, path: str, *, body: Any) -> dict[str, Any]: ...


class Events:
    """A Warnings. `run` writes them until cancelled."""

    def __init__(self, api: EventApi, instance: str, *, clock: Clock = time.monotonic) -> None:
        """`instance` is the pod, or whatever tells this process from others."""
        self._api = api
        self._instance = instance[:128]
        self._clock = clock
        self._said: OrderedDict[_Said, float] = OrderedDict()
        """When each was said last, the oldest first."""
        self._allowance = float(PER_MINUTE)
        self._allowed_at = clock()
        self._waiting: deque[tuple[_Said, str, dict[str, Any]]] = deque()
        self._woken = asyncio.Event()
        self._failing = False
        self.left_out = 0
        """More than may be said in a minute."""

    def warn(self, resource: Resource, metadata: Mapping[str, Any], reason: str, message: str) -> None:
        """`metadata` is the object's; it has a namespace."""
        now = self._clock()
        namespace, name = str(metadata.get("namespace", "")), str(metadata.get("name", ""))
        message = message if len(message) <= _MESSAGE_CHARS else f"{message[: _MESSAGE_CHARS - 3]}..."
        said = (str(resource), namespace, name, reason, message)
        while self._said and next(iter(self._said.values())) <= now - AGAIN_S:
            self._said.popitem(last=False)
        if said in self._said:
            return
        self._allowance = min(PER_MINUTE, self._allowance + (now - self._allowed_at) * PER_MINUTE / 60)
        self._allowed_at = now
        if self._allowance < 1 or len(self._waiting) >= MAX_WAITING:
            self.left_out += 1
            return
        self._allowance -= 1
        self._said[said] = now
        path = EVENTS.path(namespace)
        self._waiting.append((said, path, self._event(resource, metadata, namespace, name, reason, message)))
        self._woken.set()

    async def run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._waiting:
                said, path, body = self._waiting.popleft()
                try:
                    await self._api.post(path, body=body)
                except KubeError as error:
                    self._said.pop(said, None)  # to be said when it comes up again
                    if not self._failing:
                        log.warning(
                            "Events cannot be written (the right to create events in namespace %s is "
                            "needed); what they would say is only logged: %s",
                            said[1],
                            error,
                        )
                    self._failing = True
                else:
                    self._failing = False

    def _event(
        self,
        resource: Resource,
        metadata: Mapping[str, Any],
        namespace: str,
        name: str,
        reason: str,
        message: str,
    ) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        suffix = f".{uuid4().hex[:16]}"
        involved = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "namespace": namespace,
            "name": name,
            **{key: metadata[key] for key in ("uid", "resourceVersion") if metadata.get(key)},
        }
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {
                "name": name[: _NAME_CHARS - len(suffix)].rstrip(".-") + suffix,
                "namespace": namespace,
            },
            "involvedObject": involved,
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
