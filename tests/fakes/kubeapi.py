"""A small Kubernetes API server over real HTTP: lists in pages, watches with history, and faults on request.

It keeps every state it ever had, so that a test can ask whether what a client believes was ever true.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

Object = dict[str, Any]
State = Mapping[str, str]
"""resourceVersion by key."""


@dataclass(frozen=True)
class Refuse:
    """This status instead of an answer, as a Status object or as a proxy's text."""

    status: int
    retry_after_s: int | None = None
    text: str = ""


@dataclass(frozen=True)
class Cut:
    """The connection breaks after so many bytes of the answer's body, or with -1 before its head."""

    after_bytes: int


@dataclass(frozen=True)
class End:
    """The watch ends in good order after so many events. No fault for a list."""

    after_events: int = 0


@dataclass(frozen=True)
class Say:
    """This line in the watch, then the rest as usual. No fault for a list."""

    line: bytes


@dataclass(frozen=True)
class Trickle:
    """The answer comes in pieces of so many bytes."""

    piece_bytes: int


@dataclass(frozen=True)
class Hang:
    """No answer, as long as the client waits."""


Fault = Refuse | Cut | End | Say | Trickle | Hang

GARBAGE = Say(b"\x00\xff not json\n")
HALF = Say(b'{"type":"ADDED","object":{"metadata"\n')
GONE = Say(b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n')
BUSY = Say(
    b'{"type":"ERROR","object":{"kind":"Status","code":500,"reason":"InternalError","message":"no"}}\n'
)


@dataclass
class FakeKubeApi:
    """One kind of object, under `path` and under that of every namespace; `async with` runs it."""

    version: str = "v1"
    plural: str = "pods"
    history: list[tuple[int, str, Object]] = field(default_factory=list)
    states: list[State] = field(default_factory=lambda: [{}])
    """By number of changes, that is by resourceVersion."""
    objects: dict[str, Object] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    """Each next request takes one."""
    installed: bool = True
    """Whether the API knows the resource."""
    bookmarks: bool = True
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    """What came as Authorization."""
    allowed: set[str] | None = None
    """Tokens that are let in; None for all."""
    forbidden: set[str] = field(default_factory=set)
    """Of "list" and "watch"."""
    watches: int = 0
    """Open now."""
    port: int = 0
    _compacted: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _transports: set[asyncio.Transport] = field(default_factory=set)
    _snapshots: dict[int, list[Object]] = field(default_factory=dict)

    # What a test does to it

    @property
    def now(self) -> int:
        return len(self.states) - 1

    @property
    def state(self) -> State:
        return self.states[-1]

    def put(self, key: str, **more: Any) -> None:
        namespace, name = key.split("/")
        version = self.now + 1
        metadata = {"namespace": namespace, "name": name, "resourceVersion": str(version)}
        kind = "MODIFIED" if key in self.objects else "ADDED"
        self.objects[key] = {**more, "metadata": metadata}
        self._happened(kind, self.objects[key])

    def drop(self, key: str) -> None:
        gone = self.objects.pop(key)
        version = str(self.now + 1)
        self._happened("DELETED", {**gone, "metadata": {**gone["metadata"], "resourceVersion": version}})

    def compact(self) -> None:
        """Forgets all history: older watches and continued lists are answered with 410."""
        self._compacted = self.now
        self._snapshots.clear()

    def kubeconfig(self, path: Path, *, namespace: str = "default", **user: str) -> Path:
        """Writes one for it; `user` as the file has it, such as token or tokenFile."""
        config = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
            "users": [{"name": "u", "user": user or {"token": "t"}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def cut_all(self) -> None:
        """Every connection breaks."""
        for transport in list(self._transports):
            transport.abort()

    def _happened(self, kind: str, object: Object) -> None:
        self.states.append({key: found["metadata"]["resourceVersion"] for key, found in self.objects.items()})
        self.history.append((self.now, kind, object))
        self._wake.set()
        self._wake = asyncio.Event()

    # What it answers

    async def __aenter__(self) -> FakeKubeApi:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut_all()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.query)))
        self.tokens.append(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if self.allowed is not None and self.tokens[-1] not in self.allowed:
            return _status(401, "Unauthorized")
        parts = request.path.strip("/").split("/")
        if parts[-1] != self.plural or not self.installed:
            return web.Response(status=404, text="404 page not found")
        namespace = parts[-2] if parts[-3:-2] == ["namespaces"] else None
        watching = request.query.get("watch") in ("1", "true")
        if ("watch" if watching else "list") in self.forbidden:
            return _status(403, "Forbidden")
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, Refuse):
            headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            if fault.text:
                return web.Response(status=fault.status, text=fault.text, headers=headers)
            return _status(fault.status, "Fault", headers)
        if isinstance(fault, Hang):
            await asyncio.Event().wait()
        answer = _Answer(request, fault)
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._transports.add(transport)
        try:
            if watching:
                self.watches += 1
                try:
                    await self._watch(answer, namespace, int(request.query["resourceVersion"]))
                finally:
                    self.watches -= 1
            else:
                refusal = await self._list(answer, namespace, request.query)
                if refusal is not None:
                    return refusal
            await answer.finish()
        except (_Broken, ConnectionError):
            transport.abort()
        finally:
            self._transports.discard(transport)
        return answer.response

    async def _list(
        self, answer: _Answer, namespace: str | None, query: Mapping[str, str]
    ) -> web.StreamResponse | None:
        limit = int(query.get("limit", 0)) or len(self.objects) + 1
        token = query.get("continue", "")
        if token:
            version, start = (int(part) for part in base64.b64decode(token).decode().split(":"))
            if version not in self._snapshots:
                return _status(410, "Expired")
        else:
            version, start = self.now, 0
            self._snapshots[version] = [self.objects[key] for key in sorted(self.objects)]
        rows = self._snapshots[version]
        if namespace is not None:
            rows = [row for row in rows if row["metadata"]["namespace"] == namespace]
        metadata = {"resourceVersion": str(version)}
        if start + limit < len(rows):
            metadata["continue"] = base64.b64encode(f"{version}:{start + limit}".encode()).decode()
        await answer.write(json.dumps({"metadata": metadata, "items": rows[start : start + limit]}).encode())
        return None

    async def _watch(self, answer: _Answer, namespace: str | None, version: int) -> None:
        if isinstance(answer.fault, Say):
            await answer.write(answer.fault.line)
        ends_after = answer.fault.after_events if isinstance(answer.fault, End) else None
        events = 0
        await answer.write(b"")
        while True:
            if version < self._compacted:
                await answer.write(GONE.line)
                return
            wake = self._wake
            for at, kind, object in [row for row in self.history if row[0] > version]:
                ours = namespace in (None, object["metadata"]["namespace"])
                if ours and events == ends_after:
                    return
                version = at
                if ours:
                    events += 1
                    await answer.write(json.dumps({"type": kind, "object": object}).encode() + b"\n")
            if self.bookmarks:
                mark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}
                await answer.write(json.dumps(mark).encode() + b"\n")
            if events == ends_after:
                return
            await wake.wait()


class _Broken(Exception):
    """The connection is to be broken now."""


@dataclass
class _Answer:
    """Writes the body as its fault wants it."""

    request: web.Request
    fault: Fault | None
    written: int = 0

    def __post_init__(self) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "application/json"})

    async def write(self, data: bytes) -> None:
        fault = self.fault
        if isinstance(fault, Cut) and fault.after_bytes < 0:
            raise _Broken
        if not self.response.prepared:
            await self.response.prepare(self.request)
        piece = fault.piece_bytes if isinstance(fault, Trickle) else max(len(data), 1)
        if isinstance(fault, Cut) and self.written + len(data) > fault.after_bytes:
            await self.response.write(data[: fault.after_bytes - self.written])
            await asyncio.sleep(0)  # it is on its way before the connection breaks
            raise _Broken
        for start in range(0, len(data), piece):
            await self.response.write(data[start : start + piece])
            if isinstance(fault, Trickle):
                await asyncio.sleep(0)
        self.written += len(data)

    async def finish(self) -> None:
        if not self.response.prepared:
            await self.response.prepare(self.request)
        await self.response.write_eof()


def _status(status: int, reason: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "message": f"{reason} by the fake", "reason": reason}
    return web.json_response({**body, "code": status}, status=status, headers=headers or {})
