"""The player on a clock that the test moves: the loop is open, limits hold, turns follow answers."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from epp.load.calls import Arrival, Call, Manner, Mix, Single
from epp.load.player import NOT_SENT, Limits, Player
from epp.load.records import Record

CALL = Manner(Mix(("m",), (1.0,))).client(Random(0)).call([], 1)


class Time:
    """Virtual seconds: `run` plays a coroutine and jumps to the next sleeper whenever all wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), future))
        await future

    async def run(self, player: Player, workload: Iterator[Arrival]) -> None:
        playing = asyncio.create_task(player.run(workload))
        while not playing.done():
            for _ in range(20):  # enough turns of the loop for every woken task to reach its next wait
                await asyncio.sleep(0)
            if self._sleepers and not playing.done():
                self.now, _, future = heapq.heappop(self._sleepers)
                if not future.done():
                    future.set_result(None)
        await playing


@dataclass
class Engine:
    """Answers after a fixed time, or never sooner than told; a stand-in for client.Client."""

    time: Time
    seconds: float
    error: str = ""
    open: int = 0
    most: int = 0
    asked: list[tuple[str, int, float]] = field(default_factory=list)

    async def ask(self, call: Call, session: str, turn: int, intended_at: float) -> tuple[Record, str]:
        sent_at = self.time.now
        self.asked.append((session, turn, sent_at))
        self.open += 1
        self.most = max(self.most, self.open)
        await self.time.sleep(self.seconds)
        self.open -= 1
        record = Record(session, turn, "m", intended_at, sent_at, self.time.now, error=self.error)
        return record, "" if self.error else f"{session} {turn}"


@dataclass
class Chat:
    """`turns` turns, `pause` seconds between them."""

    name: str
    turns: int
    pause: float
    heard: list[str] = field(default_factory=list)

    def first(self) -> Call:
        return CALL

    def after(self, answer: str) -> tuple[float, Call] | None:
        self.heard.append(answer)
        return (self.pause, CALL) if len(self.heard) < self.turns else None


def singles(times: list[float]) -> Iterator[Arrival]:
    return (Arrival(at, Single(f"s{i}", CALL)) for i, at in enumerate(times))


async def play(
    workload: Iterator[Arrival], limits: Limits, *, seconds: float = 1.0, error: str = ""
) -> tuple[list[Record], Engine, Player]:
    time = Time()
    engine = Engine(time, seconds, error)
    records: list[Record] = []
    player = Player(engine, limits, records.append, time.clock, time.sleep)
    await time.run(player, workload)
    assert player.live.open == player.live.sessions == 0
    assert player.live.done == player.live.sent == len(records)
    return records, engine, player


async def test_arrivals_do_not_wait_for_answers() -> None:
    times = [0.0, 0.1, 0.2, 0.2, 5.0]
    records, engine, player = await play(singles(times), Limits(), seconds=60.0)
    assert [at for _, _, at in engine.asked] == times
    assert engine.most == player.live.most_open == 5
    assert all(record.lag_s == 0 for record in records)


async def test_a_closed_loop_waits_and_the_wait_is_told() -> None:
    records, engine, _ = await play(singles([0.0, 0.0, 0.0]), Limits(max_concurrency=1), seconds=2.0)
    assert engine.most == 1
    assert sorted(record.lag_s for record in records) == [0.0, 2.0, 4.0]
    assert all(record.e2e_s == 2.0 for record in records)


async def test_turns_follow_the_answer_and_the_pause() -> None:
    chat = Chat("c", 3, 4.0)
    records, engine, _ = await play(iter([Arrival(1.0, chat)]), Limits(), seconds=2.0)
    assert engine.asked == [("c", 1, 1.0), ("c", 2, 7.0), ("c", 3, 13.0)]
    assert chat.heard == ["c 1", "c 2", "c 3"]
    assert [record.intended_at for record in records] == [1.0, 7.0, 13.0]


async def test_a_failed_turn_ends_its_chat() -> None:
    chat = Chat("c", 3, 4.0)
    records, _, player = await play(iter([Arrival(0.0, chat)]), Limits(), error="reset")
    assert len(records) == player.live.errors == 1
    assert chat.heard == []


async def test_the_end_of_time_stops_turns_and_arrivals_but_not_answers() -> None:
    arrivals = [
        Arrival(0.0, Chat("c", 9, 1.0)),
        Arrival(9.5, Chat("d", 1, 0.0)),
        Arrival(11.0, Chat("e", 1, 0.0)),
    ]
    records, engine, _ = await play(iter(arrivals), Limits(seconds=10.0), seconds=3.0)
    assert [name for name, _, _ in engine.asked] == ["c", "c", "c", "d"]
    assert max(record.ended_at for record in records) == 12.5


async def test_the_count_holds_over_all_turns() -> None:
    arrivals = (Arrival(float(i), Chat(f"c{i}", 3, 0.5)) for i in range(10))
    records, _, _ = await play(arrivals, Limits(requests=5), seconds=0.1)
    assert len(records) == 5


async def test_beyond_the_open_limit_requests_fail_at_once() -> None:
    records, engine, _ = await play(singles([0.0] * 5), Limits(max_open=3), seconds=1.0)
    assert engine.most == 3
    assert sum(record.error == NOT_SENT for record in records) == 2


async def test_beyond_the_session_limit_sessions_are_not_begun() -> None:
    arrivals = (Arrival(0.0, Chat(f"c{i}", 2, 1.0)) for i in range(4))
    records, engine, _ = await play(arrivals, Limits(max_sessions=3), seconds=1.0)
    assert len(engine.asked) == 6
    assert [record.error for record in records if record.error] == [NOT_SENT]


async def test_cancelling_ends_every_session() -> None:
    time = Time()
    engine = Engine(time, 1e9)
    records: list[Record] = []
    player = Player(engine, Limits(), records.append, time.clock, time.sleep)
    playing = asyncio.create_task(player.run(singles([0.0, 0.0])))
    while engine.open < 2:
        await asyncio.sleep(0)
    playing.cancel()
    (outcome,) = await asyncio.gather(playing, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
    assert player.live.open == player.live.sessions == 0
    assert records == []


async def test_sessions_are_built_ahead_of_their_time() -> None:
    built: list[tuple[float, float]] = []
    time = Time()

    @dataclass
    class Watched:
        at: float
        name: str = "w"

        def first(self) -> Call:
            built.append((self.at, time.now))
            return CALL

        def after(self, answer: str) -> tuple[float, Call] | None:
            return None

    player = Player(Engine(time, 0.1), Limits(), lambda record: None, time.clock, time.sleep)
    await time.run(player, (Arrival(float(i), Watched(float(i))) for i in range(1, 200)))
    assert len(built) == 199
    assert all(now < at for at, now in built)


@given(
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=25),
    seconds=st.floats(0.01, 10),
    turns=st.integers(1, 3),
    limit=st.integers(1, 30),
)
def test_every_request_has_one_record(gaps: list[float], seconds: float, turns: int, limit: int) -> None:
    times = list(itertools.accumulate(gaps))
    arrivals = (Arrival(at, Chat(f"c{i}", turns, 0.5)) for i, at in enumerate(times))
    records, engine, _ = asyncio.run(play(arrivals, Limits(requests=limit), seconds=seconds))
    assert len(records) == len(engine.asked) == min(limit, turns * len(times))
    assert len({(record.session, record.turn) for record in records}) == len(records)
    assert all(record.sent_at >= record.intended_at for record in records)
