"""The load of the hand-off benchmark: requests at a fixed rate whatever the picker does; their latencies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from grpc_client import Connection, Stream
from grpc_messages import answer_body, answer_head, request

VARIANTS = 64
PATIENCE_S = 10.0
ANSWER = b'{"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}}'


class OpenLoop:
    """Each request ends with a short answer once it has its verdict."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.latencies_s: list[float] = []
        """From the moment a request was due to its verdict."""
        self.errors = 0
        self._connections = connections
        self._requests = [request(variant, stream=False) for variant in range(VARIANTS)]
        self._answer = answer_head(stream=False) + answer_body(ANSWER, end=True)
        self._due: dict[Stream, float] = {}
        self._sent = 0

    async def run(self, per_s: float, seconds: float) -> None:
        """Until all have ended. Figures of earlier runs are dropped."""
        self.latencies_s.clear()
        self.errors = 0
        began = time.perf_counter()
        for number in range(int(per_s * seconds)):
            due = began + number / per_s
            late = time.perf_counter() - due
            if late < 0:
                await asyncio.sleep(-late)
            elif number % 16 == 0:
                await asyncio.sleep(0)  # answers are let in all the same
            self._send(due)
        while self._due and time.perf_counter() < began + seconds + PATIENCE_S:
            await asyncio.sleep(0.01)
        self.errors += len(self._due)

    def _send(self, due: float) -> None:
        self._sent += 1
        stream = self._connections[self._sent % len(self._connections)].open(self._heard, self._over)
        self._due[stream] = due
        stream.send(self._requests[self._sent % VARIANTS])

    def _heard(self, stream: Stream, _: bytes) -> None:
        if stream.messages == 1:
            self.latencies_s.append(time.perf_counter() - self._due[stream])
            stream.send(self._answer, end=True)

    def _over(self, stream: Stream, in_order: bool) -> None:
        del self._due[stream]
        if not in_order:
            self.errors += 1
