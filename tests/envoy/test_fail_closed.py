"""deploy/envoy/standalone.yaml without its picker: clear refusals, and no way around it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from .rig import CHOSEN, Rig, chat, ready, restart, rig, until


async def _refused(stack: Rig, headers: dict[str, str] | None = None) -> None:
    for ask in (
        stack.client.post("/v1/chat/completions", json=chat(), headers=headers),
        stack.client.get("/v1/models/base", headers=headers),
    ):
        async with ask as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["type"] == "gateway_error"


async def test_without_a_picker_clients_get_503(tmp_path: Path) -> None:
    async with rig(tmp_path, "standalone.yaml", engines=2) as stack:
        stack.epp.child.kill()
        await _refused(stack)
        await stack.picker_known(False)
        # The only route there leads to the endpoint header: a client's own must not be it.
        await _refused(stack, {CHOSEN: stack.engines[0].address})
        assert stack.by_port() == {engine.address: 0 for engine in stack.engines}
        await restart(stack.epp.child, ready(stack.epp))
        # Envoy's workers learn a little later than its main thread, which counts, that the picker is back.
        async with asyncio.timeout(15):
            while await _status(stack) != 200:
                await asyncio.sleep(0.05)


async def _status(stack: Rig) -> int:
    async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
        await answer.read()
        return answer.status


async def test_a_restart_under_load_refuses_clearly(tmp_path: Path) -> None:
    """A picker that stops drains first: what it has is finished, what is new is refused, nothing hangs."""
    async with rig(tmp_path, "standalone.yaml", engines=2, flags=["--drain-timeout=2s"]) as stack:
        statuses: Counter[int] = Counter()
        over = asyncio.Event()

        async def client() -> None:
            while not over.is_set():
                async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
                    await answer.read()
                    statuses[answer.status] += 1

        async with asyncio.TaskGroup() as clients:
            for _ in range(8):
                clients.create_task(client())
            assert await asyncio.to_thread(stack.epp.child.stop, 20) == 0
            await restart(stack.epp.child, ready(stack.epp))
            await stack.picker_known(True)
            served = statuses[200]
            await until(lambda: statuses[200] > served, "answered again")
            over.set()
        assert set(statuses) <= {200, 503}, statuses
        assert statuses[200] > 0
        await stack.idle()
