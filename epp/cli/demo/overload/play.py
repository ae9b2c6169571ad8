"""Plays the asks at a gateway, with clients that come back when Retry-After says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Final

from epp.cli.demo.overload.scene import Ask, Phases
from epp.load.answers import Answer
from epp.load.transport import Pool, Target, TransportError

GRACE_S: Final = 3.0
"""What is still open so long after the last request is broken off."""
_REFUSALS: Final = frozenset({429, 503})


@dataclass(eq=False, slots=True)
class Job:
    """What has become of an ask. Instants are seconds since the start; inf for what has not happened."""

    ask: Ask
    refused_at: list[float] = field(default_factory=list)
    retry_after_s: list[int] = field(default_factory=list)
    """Of each refusal; 0 where none was told."""
    away: bool = False
    """Not asking now: refused, and back later or never."""
    first_token_at: float = inf
    answered_at: float = inf
    failure: str = ""

    @property
    def ttft_s(self) -> float:
        """From when the client first asked."""
        return self.first_token_at - self.ask.at

    @property
    def waits(self) -> bool:
        """It was asked and neither refused nor answered yet."""
        return not self.away and not self.failure and self.first_token_at == inf


class _Reply:
    """Takes one answer as it comes."""

    __slots__ = ("_clock", "_job", "answer", "retry_after", "status")

    def __init__(self, job: Job, clock: Callable[[], float]) -> None:
        self._job = job
        self._clock = clock
        self.answer = Answer(stream=job.ask.call.stream)
        self.status = 0
        self.retry_after = ""

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.retry_after = headers.get("retry-after", "")

    def body(self, data: bytes) -> None:
        if self.status != 200:
            return
        self.answer.feed(data, self._clock())
        if self.answer.first_token_at is not None and self._job.first_token_at == inf:
            self._job.first_token_at = self.answer.first_token_at


class Play:
    """One run at one gateway. `jobs` may be read at any time."""

    def __init__(self, url: str, name: str) -> None:
        self.jobs: list[Job] = []
        self._url = url
        self._name = name
        self._pool = Pool(Target.parse(url))
        self._count = 0
        self._end_at = 0.0
        self._began = time.perf_counter()

    def clock(self) -> float:
        return time.perf_counter() - self._began

    async def run(self, asks: Sequence[Ask], phases: Phases) -> None:
        """Until the end and what is open then is answered, for GRACE_S at most."""
        self._began = time.perf_counter()
        self._end_at = phases.end_at
        open_jobs: set[asyncio.Task[None]] = set()
        try:
            for ask in asks:
                await asyncio.sleep(max(0.0, ask.at - self.clock()))
                job = Job(ask)
                self.jobs.append(job)
                task = asyncio.create_task(self._play(job))
                open_jobs.add(task)
                task.add_done_callback(open_jobs.discard)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, phases.end_at - self.clock()) + GRACE_S):
                    await asyncio.gather(*open_jobs)
        finally:
            for task in open_jobs:
                task.cancel()
            await asyncio.gather(*open_jobs, return_exceptions=True)
            await self._pool.close()

    async def _play(self, job: Job) -> None:
        while True:
            back_s = await self._ask(job)
            if back_s is None or self.clock() + back_s > self._end_at:
                return
            await asyncio.sleep(back_s)
            job.away = False

    async def _ask(self, job: Job) -> float | None:
        """Seconds after which the client comes again; None when it does not."""
        self._count += 1
        reply = _Reply(job, self.clock)
        try:
            await self._pool.exchange(self._request(job.ask), reply)
        except TransportError as error:
            job.failure = f"{error.kind}: {error}"
            return None
        if reply.status == 200:
            reply.answer.finish()
            job.failure = reply.answer.error
            job.answered_at = self.clock()
            return None
        if reply.status not in _REFUSALS:
            job.failure = f"status {reply.status}"
            return None
        told = int(reply.retry_after) if reply.retry_after.isdigit() else 0
        job.away = True
        job.refused_at.append(self.clock())
        job.retry_after_s.append(told)
        return float(told) if told and len(job.refused_at) <= job.ask.patience else None

    def _request(self, ask: Ask) -> bytes:
        call, target = ask.call, self._pool.target
        lines = [
            f"POST {target.prefix}{call.path} HTTP/1.1",
            f"host: {target.authority}",
            "content-type: application/json",
            f"content-length: {len(call.body)}",
            f"x-request-id: {self._name}-{self._count}",
            *(f"{name}: {value}" for name, value in call.headers.items()),
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + call.body
