"""Requests through a gateway while things happen."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp

from .rig import until

CHAT = "/v1/chat/completions"


def chat(prompt: str = "hello", model: str = "base") -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}]}


class Load:
    """Requests one after another from a few clients, until told to stop."""

    def __init__(self, client: aiohttp.ClientSession, clients: int = 8) -> None:
        self._client = client
        self._clients = clients
        self.statuses: Counter[int] = Counter()
        self._over = False
        self._done = [0] * clients

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run(i)) for i in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _run(self, number: int) -> None:
        count = 0
        while not self._over:
            count += 1
            async with self._client.post(CHAT, json=chat(f"{number} {count}")) as answer:
                await answer.read()
            self.statuses[answer.status] += 1
            self._done[number] = count

    async def turn(self) -> None:
        """Until every request that is on its way now has been answered."""
        before = list(self._done)
        await until(lambda: all(now > then for now, then in zip(self._done, before, strict=True)), "a turn")

    async def more(self, requests: int = 100) -> None:
        """Until so many further ones were answered."""
        wanted = self.statuses.total() + requests
        await until(lambda: self.statuses.total() >= wanted, "requests are answered")
