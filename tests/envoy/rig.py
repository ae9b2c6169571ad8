"""The whole way, all of it real: client -> Envoy configured by `deploy/envoy` -> `epp serve` -> engines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.stack import DEPLOY, Child, Served, answers, envoy, epp_serve, fetch, free_port
from epp.cli.envoyfile import Value

from .engines import Engine, start_engines

CHOSEN = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
REWRITE = "x-gateway-model-name-rewrite"


transport = "auto"
"""Of the pickers that are started; set by the fixture of the same name."""


def chat(prompt: str = "hello", **more: object) -> dict[str, object]:
    return {"model": "base", "messages": [{"role": "user", "content": prompt}], **more}


async def until(condition: Callable[[], bool], what: str, *, patience_s: float = 15.0) -> None:
    """Looks again and again until it is so. Fails the test with `what` when it never is."""
    deadline = time.monotonic() + patience_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.02)


@dataclass(slots=True)
class Rig:
    """A running stack. `client` speaks to Envoy's listener."""

    engines: list[Engine]
    epp: Served
    gateway: Child
    client: aiohttp.ClientSession
    port: int
    admin: int

    def fresh(self) -> Iterator[Rig]:
        """For one test of many on the same stack: engines that remember nothing, and none left waiting."""
        for engine in self.engines:
            engine.reset()
        yield self
        for engine in self.engines:
            engine.go.set()

    def engine(self, address: str) -> Engine:
        return next(engine for engine in self.engines if engine.address == address)

    def by_port(self) -> dict[str, int]:
        """Requests that each engine saw."""
        return {engine.address: len(engine.seen) for engine in self.engines}

    async def serving(self) -> Engine:
        """The engine that got a request, once one has."""
        waits = [asyncio.ensure_future(engine.arrived.wait()) for engine in self.engines]
        try:
            async with asyncio.timeout(15):
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return next(engine for engine in self.engines if engine.arrived.is_set())

    async def idle(self) -> None:
        """Every ledger entry and every ext_proc stream has ended."""
        await until(
            lambda: self.epp.metric("llm_d_epp_inflight_requests") == 0, "no request in flight any more"
        )
        await until(
            lambda: self.epp.metric("llm_d_epp_extproc_streams_inflight") == 0, "no ext_proc stream open"
        )

    async def picker_known(self, healthy: bool) -> None:
        """Envoy's health check has found the picker up, or down."""

        membership = f"http://127.0.0.1:{self.admin}/stats/prometheus?filter=membership_healthy"

        def known() -> bool:
            flag = f'envoy_cluster_membership_healthy{{envoy_cluster_name="epp"}} {int(healthy)}'
            return flag in fetch(membership)

        await until(known, f"picker {'healthy' if healthy else 'unhealthy'} for Envoy")


@contextlib.asynccontextmanager
async def rig(
    directory: Path,
    config: str,
    *,
    engines: int = 4,
    values: Mapping[str, Value] | None = None,
    flags: Sequence[str] = (),
    secure: bool = False,
) -> AsyncIterator[Rig]:
    """`deploy/envoy/<config>` on free ports in front of epp and engines; `values` fill further marks."""
    pool = await start_engines(engines)
    addresses = [engine.address for engine in pool]
    port, admin = free_port(), free_port()
    async with contextlib.AsyncExitStack() as live:
        for engine in pool:
            live.push_async_callback(engine.stop)
        flags = ("--transport", transport, "--enable-grpc-stream-metrics", *flags)
        served = await asyncio.to_thread(epp_serve, addresses, directory, flags=flags, secure=secure)
        live.callback(served.stop_now)
        filled: dict[str, Value] = {
            "admin": admin,
            "listener": port,
            "listener_address": "127.0.0.1",
            "epp": served.grpc,
            "epp_health": served.health,
            **(values or {}),
        }
        if config == "standalone-fail-open.yaml":
            filled["engine"] = [engine.port for engine in pool]
        gateway = await asyncio.to_thread(envoy, DEPLOY / config, filled, directory)
        live.callback(gateway.stop)
        limits = aiohttp.TCPConnector(limit=0)
        client = aiohttp.ClientSession(
            f"http://127.0.0.1:{port}", connector=limits, timeout=aiohttp.ClientTimeout(60)
        )
        live.push_async_callback(client.close)
        running = Rig(pool, served, gateway, client, port, admin)
        await running.picker_known(True)
        yield running


async def restart(child: Child, ready: Callable[[], bool]) -> None:
    """After it has ended: the same process again, up to its readiness."""
    child.restart()
    await asyncio.to_thread(child.wait_for, ready)


def ready(served: Served) -> Callable[[], bool]:
    return lambda: answers(f"http://127.0.0.1:{served.metrics}/readyz")
