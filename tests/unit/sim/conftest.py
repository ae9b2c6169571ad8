"""Running fleets and a client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from epp.sim.fleet import Fleet
from epp.sim.profile import INSTANT
from epp.sim.server import Settings

StartFleet = Callable[..., Awaitable[Fleet]]


@pytest.fixture
async def start() -> AsyncIterator[StartFleet]:
    """Starts engines of a millisecond a step on free ports; profile fields and settings by keyword."""
    async with AsyncExitStack() as stack:

        async def start_fleet(n: int = 1, *, profile: dict[str, Any] | None = None, **more: Any) -> Fleet:
            settings = Settings(profile=replace(INSTANT, **(profile or {})), model="m", **more)
            fleet = Fleet(settings, [0] * n, host="127.0.0.1")
            stack.push_async_callback(fleet.wait_closed)
            stack.callback(fleet.close)
            await fleet.open()
            return fleet

        yield start_fleet


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


def url(fleet: Fleet, path: str, engine: int = 0) -> str:
    return f"http://127.0.0.1:{fleet.listeners[engine].server.port}{path}"
