"""The world around a picker of many pools: an API server, and engines that have a loopback address each.

Engines answer /metrics with a body as large as a vLLM server's, and /v1/models. The API server lists pools
and pods and keeps watches open, on which nothing happens unless it is told to replace pods.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httptools
from aiohttp import web

Object = dict[str, Any]
NAMESPACES = 10


def namespace_of(pool: int) -> str:
    return f"team-{pool % NAMESPACES}"


def address_of(pool: int, number: int) -> str:
    at = pool * 16 + number
    return f"127.{1 + (at >> 16)}.{(at >> 8) & 255}.{at & 255}"


def pool_object(pool: int, port: int) -> Object:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {
            "name": f"pool-{pool}",
            "namespace": namespace_of(pool),
            "uid": f"00000000-0000-4000-8000-{pool:012d}",
            "resourceVersion": str(pool + 1),
        },
        "spec": {
            "selector": {"matchLabels": {"app": f"pool-{pool}"}},
            "targetPorts": [{"number": port}],
            "endpointPickerRef": {"name": f"picker-{pool}", "port": {"number": 9002}},
        },
    }


def pod_object(pool: int, number: int, version: int) -> Object:
    """About as much as a scheduled pod has to say without its managed fields."""
    name = f"pool-{pool}-{version:08x}-{number}"
    since = "2026-11-21T20:00:00Z"
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace_of(pool),
            "uid": f"00000000-0000-4000-9000-{pool * 16 + number:012d}",
            "resourceVersion": str(version),
            "labels": {"app": f"pool-{pool}", "pod-template-hash": f"{version:08x}"},
            "annotations": {"kubectl.kubernetes.io/restartedAt": since},
        },
        "spec": {
            "nodeName": f"node-{number}",
            "containers": [
                {
                    "name": "vllm",
                    "image": "vllm/vllm-openai:v0.11.0",
                    "args": ["--model", "meta-llama/Llama-3.1-8B-Instruct", "--max-model-len", "32768"],
                    "env": [{"name": f"VARIABLE_{i}", "value": "x" * 40} for i in range(20)],
                    "resources": {"limits": {"nvidia.com/gpu": "1", "memory": "64Gi"}},
                    "volumeMounts": [{"name": f"volume-{i}", "mountPath": f"/mnt/{i}"} for i in range(4)],
                }
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": address_of(pool, number),
            "podIPs": [{"ip": address_of(pool, number)}],
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": since} for kind in conditions
            ],
        },
    }


class Engines:
    """Who was asked for what, by address."""

    def __init__(self, metrics: bytes) -> None:
        self.asked: dict[bytes, set[str]] = {b"/metrics": set(), b"/v1/models": set()}
        self.answers = 0
        models = json.dumps({"object": "list", "data": [{"id": "base", "object": "model"}]}).encode()
        self.bodies = {b"/metrics": _http(metrics), b"/v1/models": _http(models)}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """The port, on every loopback address."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Engine(self), "0.0.0.0", 0, backlog=8192)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()


class _Engine(asyncio.Protocol):
    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._address: str = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_message_complete(self) -> None:
        self._engines.answers += 1
        self._engines.asked[self._path].add(self._address)
        self._transport.write(self._engines.bodies[self._path])


def _http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Cluster:
    """Lists and watches."""

    def __init__(self, pools: int, endpoints: int, port: int) -> None:
        self._version = 10_000
        self._endpoints = endpoints
        self._objects: dict[str, dict[str, Object]] = {"inferencepools": {}, "pods": {}}
        self._watches: dict[str, list[asyncio.Queue[bytes]]] = {}
        for pool in range(pools):
            self._objects["inferencepools"][f"pool-{pool}"] = pool_object(pool, port)
            for number in range(endpoints):
                pod = pod_object(pool, number, self._version)
                self._objects["pods"][pod["metadata"]["name"]] = pod

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """The port."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield int(runner.addresses[0][1])
        finally:
            await runner.cleanup()

    def replace_pods(self, pool: int) -> None:
        """A roll-out: every pod of the pool goes, and another comes."""
        pods = self._objects["pods"]
        for number in range(self._endpoints):
            old = next(n for n in pods if n.startswith(f"pool-{pool}-") and n.endswith(f"-{number}"))
            self._version += 1
            self._tell("pods", "DELETED", pods.pop(old))
            new = pod_object(pool, number, self._version)
            pods[new["metadata"]["name"]] = new
            self._tell("pods", "ADDED", new)

    def _tell(self, plural: str, kind: str, changed: Object) -> None:
        line = json.dumps({"type": kind, "object": changed}).encode() + b"\n"
        for queue in self._watches.get(plural, ()):
            queue.put_nowait(line)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        plural = parts[-1]
        legacy = "inference.networking.x-k8s.io" in parts
        held = {} if legacy else self._objects.get(plural, {})
        if "watch" not in request.query:
            version = {"resourceVersion": str(self._version)}
            return web.json_response({"metadata": version, "items": list(held.values())})
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        if not legacy:
            self._watches.setdefault(plural, []).append(queue)
        mark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self._version)}}}
        await response.write(json.dumps(mark).encode() + b"\n")
        while True:
            await response.write(await queue.get())
