"""A real Envoy before a door of the test's own, which runs in the test's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from bench.stack import envoy, fetch, free_port
from epp.domain.views import Route
from epp.extproc.health import Health, serve_health
from epp.extproc.transport import Limits
from tests.fakes.door import FakeDoor
from tests.wire.transports import serving

from . import rig
from .engines import start_engines


@contextlib.asynccontextmanager
async def gateway(
    config: Path, directory: Path, limits: Limits | None = None
) -> AsyncIterator[tuple[FakeDoor, aiohttp.ClientSession, str]]:
    """The door sends everything to one engine; the client speaks to Envoy, whose admin page has the URL."""
    (engine,) = await start_engines(1)
    door = FakeDoor(verdict=lambda call: Route(engine.address))
    async with contextlib.AsyncExitStack() as live:
        live.push_async_callback(engine.stop)
        transport, _ = await live.enter_async_context(serving(rig.transport, door, limits=limits))
        health, health_port = await serve_health(Health(lambda: True), "127.0.0.1:0")
        live.push_async_callback(health.stop, None)
        port, admin = free_port(), free_port()
        filled: dict[str, int | str] = {
            "admin": admin, "listener": port, "listener_address": "127.0.0.1", "epp": transport.port,
            "epp_health": health_port,
        }  # fmt: skip
        child = await asyncio.to_thread(envoy, config, filled, directory)
        live.callback(child.stop)
        unlimited = aiohttp.TCPConnector(limit=0)
        client = aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=unlimited)
        await live.enter_async_context(client)
        url = f"http://127.0.0.1:{admin}"
        await rig.until(
            lambda: counted(url, "cluster.epp.membership_healthy") == 1, "picker healthy for Envoy"
        )
        yield door, client, url


def counted(admin: str, name: str) -> int:
    """A counter or gauge of Envoy's."""
    return int(fetch(f"{admin}/stats?filter=^{name}$").rpartition(" ")[2] or 0)


async def ask(client: aiohttp.ClientSession, prefix: str = "", **headers: str) -> None:
    url = f"{prefix}/v1/chat/completions"
    async with client.post(url, json=rig.chat(), headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
