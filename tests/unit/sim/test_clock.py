"""Both clocks: virtual time by itself, and real time replayed in virtual time, event for event."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from epp.sim.clock import VirtualTime, simulate
from epp.sim.engine import Engine
from epp.sim.profile import LLAMA_8B_H100
from epp.sim.realtime import RealTime
from epp.sim.sequence import Finish, Rejected, Sequence, Work
from epp.sim.step import Step
from tests.unit.sim.shapes import engine, work

TIGHT = replace(LLAMA_8B_H100, kv_blocks=160, max_model_len=2560, max_num_seqs=8, max_num_batched_tokens=256)
Log = list[tuple[float, str, str, int]]


def events(step: Step) -> Log:
    log = [(step.at, "first", seq.work.id, 0) for seq in step.first]
    log += [(step.at, "token", seq.work.id, seq.preemptions) for seq in step.tokens]
    return log + [(step.at, "end", seq.work.id, seq.cached_tokens) for seq in step.finished]


def load(n: int) -> list[Work]:
    rng = random.Random(7)
    return [
        work(f"w{i}", rng.randint(1, 900), rng.randint(1, 80), prefix=f"p{rng.randrange(6)}")
        for i in range(n)
    ]


async def test_real_and_virtual_time_give_the_same_events() -> None:
    loop = asyncio.get_running_loop()
    real: Log = []
    happened: list[tuple[float, str, str]] = []
    sequences: dict[str, Sequence] = {}
    left = 120
    over = asyncio.Event()

    def ended(n: int) -> None:
        nonlocal left
        left -= n
        if not left:
            over.set()

    def stepped(step: Step) -> None:
        real.extend(events(step))
        ended(len(step.finished))

    clock = RealTime(Engine(TIGHT, seed=3), stepped, loop, speed=40.0)

    def arrive(new: Work) -> None:
        seq = sequences[new.id] = clock.add(new)
        happened.append((seq.arrived_at, "add", new.id))

    def leave(name: str) -> None:
        seq = sequences[name]
        if seq.ended is None:
            clock.abort(seq)
        if seq.ended is Finish.ABORT:  # else its last step was over already
            happened.append((seq.finished_at, "abort", name))
            ended(1)

    rng = random.Random(1)
    works = load(left)
    for new in works:
        at = rng.uniform(0.0, 0.5)
        loop.call_later(at, arrive, new)
        if rng.random() < 0.2:
            loop.call_later(at + rng.uniform(0.001, 0.1), leave, new.id)
    await over.wait()
    clock.close()

    virtual: Log = []
    one = Engine(TIGHT, seed=3)
    again = VirtualTime([one], lambda _, step: virtual.extend(events(step)))
    by_id = {new.id: new for new in works}
    replayed: dict[str, Sequence] = {}

    def replay(what: str, name: str) -> None:
        if what == "add":
            replayed[name] = again.add(0, by_id[name])
        else:
            again.abort(0, replayed[name])

    for at, what, name in happened:
        again.at(at, lambda what=what, name=name: replay(what, name))
    again.run()

    assert any(seq.preemptions for seq in sequences.values())  # the load is heavy enough to mean something
    assert any(seq.ended is Finish.ABORT for seq in sequences.values())
    assert virtual[: len(real)] == real
    assert not virtual[len(real) :]


async def test_a_closed_clock_steps_no_more() -> None:
    seen: list[Step] = []
    clock = RealTime(engine(step_s=0.0, prefill_token_s=0.0), seen.append, asyncio.get_running_loop())
    clock.close()
    seq = clock.add(work("a"))
    clock.abort(seq)
    await asyncio.sleep(0)
    assert not seen
    assert seq.ended is Finish.ABORT


async def test_several_are_added_together_or_not_at_all() -> None:
    clock = RealTime(engine(max_waiting=2), lambda step: None, asyncio.get_running_loop())
    clock.add_all([work("a"), work("b")])
    with pytest.raises(Rejected):
        clock.add_all([work("c"), work("d"), work("e")])
    assert clock.engine.unfinished == 2
    clock.close()


async def test_what_a_step_brings_may_abort_others() -> None:
    """A broken client connection is noticed while a step is handed out."""
    over = asyncio.Event()

    def stepped(step: Step) -> None:
        if first in step.first:
            clock.abort(second)
        if first in step.finished:
            over.set()

    clock = RealTime(engine(step_s=0.001, prefill_token_s=0.0), stepped, asyncio.get_running_loop())
    first, second = clock.add_all([work("a", output=5), work("b", output=50)])
    await over.wait()
    assert second.ended is Finish.ABORT
    assert clock.engine.kv.used == 0


def test_steps_end_before_arrivals_of_the_same_instant() -> None:
    one = engine(max_num_seqs=1)
    order = []
    clock = VirtualTime([one], lambda _, step: order.append(f"step {step.at}"))
    clock.at(1.0, lambda: order.append("call 1.0"))
    clock.at(0.0, lambda: clock.add(0, work("a", prompt=100, output=1)) and None)
    one.profile = replace(one.profile, prefill_token_s=0.0, max_num_batched_tokens=100)
    clock.run()
    assert order == ["step 1.0", "call 1.0"]


def test_run_stops_at_an_instant_and_goes_on() -> None:
    one = engine()
    clock = VirtualTime([one])
    seq = clock.add(0, work("a", prompt=10, output=3))
    clock.run(until=2.0)
    assert (clock.now, one.generated(seq)) == (2.0, 1)
    clock.run()
    assert (clock.now, seq.finished_at) == (pytest.approx(3.1), pytest.approx(3.1))


def test_simulate_routes_and_reports() -> None:
    engines = [engine(max_num_seqs=1, max_waiting=1) for _ in range(2)]
    arrivals = [(0.5 * i, work(str(i), output=4)) for i in range(9)]
    turns = iter(range(9))
    served = simulate(engines, arrivals, lambda now, new: next(turns) % 2)
    assert [s.engine for s in served] == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert [s.arrived_at for s in served] == [0.5 * i for i in range(9)]
    refused = [s for s in served if s.sequence is None]
    assert refused
    assert all(isinstance(s.refused, Rejected) and s.refused.status == 429 for s in refused)
    assert all(s.sequence.ended is Finish.LENGTH for s in served if s.sequence is not None)


def test_simulations_repeat_exactly() -> None:
    def run() -> list[float]:
        engines = [Engine(TIGHT, seed=i) for i in range(3)]
        arrivals = [(0.05 * i, new) for i, new in enumerate(load(200))]
        served = simulate(
            engines, arrivals, lambda now, new: min(range(3), key=lambda i: engines[i].unfinished)
        )
        return [s.sequence.finished_at for s in served if s.sequence is not None]

    assert run() == run()
