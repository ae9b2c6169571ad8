"""Plays a workload: sends every request when it is due, whatever became of the others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from epp.load.calls import Arrival, Call, Session, Workload
from epp.load.records import Live, Record

NOT_SENT = "not-sent"
"""Error of a request that was due while `max_open` others were still open."""


SPARE_S = 0.005
"""Time to the next request in which another session may still be built (a long one takes about 1 ms)."""
BUILD_AHEAD = 64


class Asks(Protocol):
    """A client; see client.Client."""

    async def ask(self, call: Call, session: str, turn: int, intended_at: float) -> tuple[Record, str]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop, and how much at once."""

    requests: int | None = None
    """Requests in all, later turns included."""
    seconds: float | None = None
    """Nothing is sent after this; what is open is finished."""
    max_open: int = 10_000
    """A request due beyond this many open ones is not sent and counts as an error: the loop stays open."""
    max_concurrency: int | None = None
    """Closes the loop: a request waits for its place, and the wait shows as lag."""
    max_sessions: int = 100_000
    """Sessions that answer or think; further ones are not begun."""


class Player:
    """One run. `clock` gives seconds since its start, `sleep` waits so many of them."""

    def __init__(
        self,
        client: Asks,
        limits: Limits,
        on_record: Callable[[Record], None],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.live = Live()
        self._client = client
        self._limits = limits
        self._on_record = on_record
        self._clock = clock
        self._sleep = sleep
        self._places: AbstractAsyncContextManager[None] = (
            asyncio.Semaphore(limits.max_concurrency) if limits.max_concurrency else nullcontext()
        )

    async def run(self, workload: Workload) -> None:
        """Until every session has ended. Cancelling ends all of them.

        Sessions are built ahead of their time, in the pauses, so that building them delays nobody.
        """
        ahead: deque[tuple[Arrival, Call]] = deque()
        arrivals = iter(workload)
        async with asyncio.TaskGroup() as group:
            while True:
                if not ahead and not self._build(arrivals, ahead):
                    break
                arrival, first = ahead.popleft()
                while arrival.at - self._clock() > SPARE_S and len(ahead) < BUILD_AHEAD:
                    if not self._build(arrivals, ahead):
                        break
                    await asyncio.sleep(0)
                await self._until(arrival.at)
                if self._over(arrival.at):
                    break
                if self.live.sessions >= self._limits.max_sessions:
                    self._refuse(arrival, first)
                    continue
                self.live.sessions += 1
                self.live.sent += 1  # counted when decided, not when its task first runs: limits must hold
                group.create_task(self._play(arrival.session, first, arrival.at))

    def _build(self, arrivals: Iterator[Arrival], ahead: deque[tuple[Arrival, Call]]) -> bool:
        arrival = next(arrivals, None)
        if arrival is None or self._over(arrival.at):
            return False
        ahead.append((arrival, arrival.session.first()))
        return True

    async def _play(self, session: Session, call: Call, due: float) -> None:
        turn = 1
        try:
            while True:
                record, answer = await self._one(session, call, turn, due)
                if record.error:
                    return
                following = session.after(answer)
                if following is None:
                    return
                pause, call = following
                due = record.ended_at + pause
                turn += 1
                if self._over(due):
                    return
                await self._until(due)
                if self._over(due):
                    return
                self.live.sent += 1
        finally:
            self.live.sessions -= 1

    async def _one(self, session: Session, call: Call, turn: int, due: float) -> tuple[Record, str]:
        live = self.live
        live.open += 1
        live.most_open = max(live.most_open, live.open)
        if live.open > self._limits.max_open:
            record, answer = self._unsent(session, call, turn, due), ""
        else:
            try:
                async with self._places:
                    record, answer = await self._client.ask(call, session.name, turn, due)
            except BaseException:
                live.open -= 1
                raise
        live.finished(record)
        self._on_record(record)
        return record, answer

    def _refuse(self, arrival: Arrival, call: Call) -> None:
        self.live.sent += 1
        self.live.open += 1
        record = self._unsent(arrival.session, call, 1, arrival.at)
        self.live.finished(record)
        self._on_record(record)

    def _unsent(self, session: Session, call: Call, turn: int, due: float) -> Record:
        now = self._clock()
        return Record(
            session.name, turn, call.model, due, now, now,
            error=NOT_SENT, detail="too many open requests", input_tokens=call.input_tokens,
        )  # fmt: skip

    def _over(self, due: float) -> bool:
        limits = self._limits
        return (limits.requests is not None and self.live.sent >= limits.requests) or (
            limits.seconds is not None and due > limits.seconds
        )

    async def _until(self, due: float) -> None:
        while (wait := due - self._clock()) > 0:
            await self._sleep(wait)
