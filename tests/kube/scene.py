"""A whole cluster on one machine: a real API server, a real Envoy, `epp serve`, and engines as pods.

Each pod is an engine on a loopback address of its own, all on the target port of their pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.stack import BIN, DEPLOY, Child, Served, answers, envoy, fetch, free_port
from tests.envoy.engines import Engine

from .rig import ADMIN, ApiServer, Object, until

LABELS = {"app": "engine"}


@dataclass(slots=True)
class Picker:
    """One replica of `epp serve`."""

    served: Served

    def readiness(self) -> dict[str, object]:
        """What /readyz says, whatever its status."""
        return dict(json.loads(self.page("/readyz")))

    def page(self, path: str, token: str = "") -> str:
        return fetch_any(f"http://127.0.0.1:{self.served.metrics}{path}", token)[1]

    def endpoints(self, pool: str = "p") -> set[str]:
        """Names of the endpoints that requests may go to."""
        status, text = fetch_any(f"http://127.0.0.1:{self.served.metrics}/debug/pools?pool={pool}")
        rows = json.loads(text)["servers"] if status == 200 else []
        return {row["endpoint"].partition("/")[2] for row in rows}

    def said(self) -> list[str]:
        """Messages in its log."""
        lines = self.served.child.output().splitlines()
        return [json.loads(line)["msg"] for line in lines if line.startswith("{")]


def fetch_any(url: str, token: str = "") -> tuple[int, str]:
    """Status and body, whatever they are."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@dataclass(slots=True)
class Scene:
    api: ApiServer
    namespace: str
    folder: Path
    port: int
    """Of every engine."""
    engines: dict[str, Engine] = field(default_factory=dict)
    """By the pod's name."""
    pods: dict[str, Object] = field(default_factory=dict)
    live: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def pod(self, name: str, labels: Mapping[str, str] = LABELS, *, ready: bool = True) -> Engine:
        """A new engine, and its pod."""
        engine = Engine(self.port, host=f"127.0.0.{len(self.engines) + 2}")
        await engine.start()
        self.live.push_async_callback(engine.stop)
        self.engines[name] = engine
        self.pods[name] = await asyncio.to_thread(
            self.api.pod, self.namespace, name, labels, ip=engine.host, ready=ready
        )
        return engine

    async def delete(self, name: str, *, grace_s: int = 0) -> None:
        await asyncio.to_thread(self.api.delete, self.pods[name], grace_s=grace_s)

    async def picker(
        self, *flags: str, user: str = ADMIN, ready: bool = True, env: Mapping[str, str] | None = None
    ) -> Picker:
        grpc, health, metrics = free_port(), free_port(), free_port()
        kubeconfig = self.api.kubeconfig(user, namespace=self.namespace)
        argv = [str(BIN / "epp"), "serve", "--kubeconfig", str(kubeconfig), "--bind-address", "127.0.0.1"]
        argv += ["--grpc-port", str(grpc), "--grpc-health-port", str(health), "--metrics-port", str(metrics)]
        argv += ["--secure-serving=false", "--tracing=false", *flags]
        if not any(flag.startswith("--metrics-endpoint-auth") for flag in flags):
            argv.append("--metrics-endpoint-auth=false")
        child = Child("epp", argv, self.folder / f"epp-{grpc}.log", env=env)
        served = Served(child, grpc, health, metrics)
        self.live.callback(served.stop_now)
        url = f"http://127.0.0.1:{metrics}/{'readyz' if ready else 'healthz'}"
        await asyncio.to_thread(child.wait_for, lambda: answers(url))
        return Picker(served)

    async def gateway(self, picker: Picker) -> aiohttp.ClientSession:
        """An Envoy before this picker; a client of it."""
        port, admin = free_port(), free_port()
        filled = {
            "admin": admin,
            "listener": port,
            "listener_address": "127.0.0.1",
            "epp": picker.served.grpc,
            "epp_health": picker.served.health,
            "control_header": "x-nothing",  # let those of clients through
        }
        gateway = await asyncio.to_thread(envoy, DEPLOY / "standalone.yaml", filled, self.folder)
        self.live.callback(gateway.stop)
        client = aiohttp.ClientSession(
            f"http://127.0.0.1:{port}",
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(60),
        )
        self.live.push_async_callback(client.close)
        stats = f"http://127.0.0.1:{admin}/stats/prometheus?filter=membership_healthy"
        wanted = 'envoy_cluster_membership_healthy{envoy_cluster_name="epp"} 1'
        await until(lambda: wanted in fetch(stats), "Envoy knows the picker")
        return client


@contextlib.asynccontextmanager
async def scene(api: ApiServer, folder: Path, objects: Sequence[Object] = ()) -> AsyncIterator[Scene]:
    """In a namespace of its own."""
    namespace = await asyncio.to_thread(api.namespace)
    made = Scene(api, namespace, folder, free_port())
    async with made.live:
        yield made
