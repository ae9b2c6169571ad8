"""deploy/envoy/standalone-fail-open.yaml: Envoy balances by itself while the picker is away."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from .rig import CHOSEN, SERVED, chat, ready, restart, rig, until

CONFIG = "standalone-fail-open.yaml"
DUPLEX: dict[str, str] = {}
HELD_BY_ENVOY = {"request_body": "BUFFERED", "answer_body": "NONE"}
"""Envoy keeps the request's body until epp has answered, and answers do not pass through epp."""


async def test_without_a_picker_every_request_is_answered(tmp_path: Path) -> None:
    async with rig(tmp_path, CONFIG, engines=3) as stack:
        async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
            assert answer.status == 200
            assert stack.engine(answer.headers[SERVED]).seen[-1].headers[CHOSEN] == answer.headers[SERVED]
        stack.epp.child.kill()
        await stack.picker_known(False)
        target = stack.engines[0]
        for engine in stack.engines:
            engine.reset()
        for number in range(30):
            method, body = ("POST", chat(f"{number}")) if number % 2 else ("GET", None)
            headers = {CHOSEN: target.address, SERVED: target.address}
            async with stack.client.request(
                method, "/v1/chat/completions", headers=headers, json=body
            ) as answer:
                assert answer.status == 200, await answer.text()
                assert CHOSEN not in stack.engine(answer.headers[SERVED]).seen[-1].headers
        # A client that names its target does not get it: Envoy went on balancing.
        assert sum(stack.by_port().values()) == 30
        assert stack.by_port()[target.address] < 30


async def test_a_restart_under_load_fails_no_request(tmp_path: Path) -> None:
    """A picker that stops drains first, so no body is on its way to it when it goes."""
    async with rig(tmp_path, CONFIG, engines=3, flags=["--drain-timeout=4s"]) as stack:
        statuses: Counter[int] = Counter()
        picked: Counter[bool] = Counter()
        over = asyncio.Event()

        async def client() -> None:
            while not over.is_set():
                async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
                    await answer.read()
                    statuses[answer.status] += 1
                    picked[CHOSEN in stack.engine(answer.headers[SERVED]).seen[-1].headers] += 1

        async with asyncio.TaskGroup() as clients:
            for _ in range(8):
                clients.create_task(client())
            assert await asyncio.to_thread(stack.epp.child.stop, 20) == 0
            await restart(stack.epp.child, ready(stack.epp))
            await stack.picker_known(True)
            seen = picked[True]
            await until(lambda: picked[True] > seen, "picked again")
            over.set()
        assert set(statuses) == {200}, statuses
        assert picked[False] > 0, "Envoy balanced while the picker was away"
        await stack.idle()


@pytest.mark.parametrize("modes", [DUPLEX, HELD_BY_ENVOY], ids=["duplex", "held-by-envoy"])
async def test_a_killed_picker_fails_only_bodies_on_their_way(tmp_path: Path, modes: dict[str, str]) -> None:
    async with rig(tmp_path, CONFIG, engines=3, values=modes) as stack:
        statuses: Counter[int] = Counter()
        broken: Counter[int] = Counter()
        over = asyncio.Event()

        async def client() -> None:
            while not over.is_set():
                async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
                    try:
                        await answer.read()
                    except aiohttp.ClientPayloadError:
                        broken.update([answer.status])  # the answer's body was with the picker
                    else:
                        statuses[answer.status] += 1

        async with asyncio.TaskGroup() as clients:
            for _ in range(8):
                clients.create_task(client())
            await until(lambda: statuses[200] > 50, "under load")
            await asyncio.to_thread(stack.epp.child.kill)
            await stack.picker_known(False)
            answered = statuses[200]
            await until(lambda: statuses[200] > answered + 50, "under load without a picker")
            over.set()
        assert set(statuses) <= {200, 503}, statuses
        if modes is HELD_BY_ENVOY:
            assert statuses[503] + broken.total() == 0, (statuses, broken)
        # Those that were with the picker when it died, and those that found its door shut first.
        assert statuses[503] + broken.total() <= 16, (statuses, broken)
