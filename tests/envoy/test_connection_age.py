"""A real Envoy whose connections to the picker grow old under load: it opens others, and no request fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.stack import DEPLOY
from epp.extproc.transport import Limits

from .doors import ask, counted, gateway

RECONNECTS = 6


@pytest.mark.parametrize("name", ["standalone.yaml", "buffered.yaml"])
async def test_no_request_fails_while_connections_grow_old(tmp_path: Path, name: str) -> None:
    served = 0
    limits = Limits(max_connection_age_s=0.3)
    async with gateway(DEPLOY / name, tmp_path, limits) as (door, client, admin):
        enough = asyncio.Event()

        async def load() -> None:
            nonlocal served
            while not enough.is_set():
                await ask(client)
                served += 1

        async def watch() -> None:
            while (
                await asyncio.to_thread(counted, admin, "cluster.epp.upstream_cx_http2_total") <= RECONNECTS
            ):
                await asyncio.sleep(0.02)
            enough.set()

        async with asyncio.timeout(60):
            await asyncio.gather(watch(), *(load() for _ in range(16)))
        assert len(door.calls) == served
        assert await asyncio.to_thread(counted, admin, "http.inference.downstream_rq_5xx") == 0
