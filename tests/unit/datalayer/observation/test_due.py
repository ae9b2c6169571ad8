"""First tokens that nobody tells: whatever happens in whatever order, the ledger stays right."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.datalayer.inflight import Ledger
from epp.datalayer.observation.due import Watch
from epp.datalayer.observation.gateways import Mode
from epp.datalayer.observation.observation import Observation
from epp.domain.request import AnswerView, Usage
from epp.domain.views import Report
from tests import builders

SLOTS = np.arange(3)


class World:
    """Observation over a ledger, driven by hand."""

    def __init__(self, mode: Mode = Mode.AUTO) -> None:
        self.now = 1000.0
        self.ledger = Ledger()
        self.observation = Observation(self.ledger, Random(1), mode=mode)
        self.open: list[Watch] = []
        self.uncached: set[Watch] = set()
        """Those with something to prefill."""
        self.counts = [0.0] * 3

    def send(self, slot: int, tokens: int, view: AnswerView, *, stream: bool = True) -> Watch | None:
        self.observation.settle(self.now)
        request = builders.request(head=builders.head(answer_view=view), stream=stream)
        entry = self.ledger.start(slot, prefill_tokens=tokens, decode_tokens=10)
        watch = self.observation.watch(
            request, entry, uncached=tokens, output=10, rewritten=False, now=self.now
        )
        if watch is None:
            entry.end()
        else:
            self.open.append(watch)
            if tokens:
                self.uncached.add(watch)
        return watch

    def begin(self, watch: Watch, status: int = 200) -> None:
        self.observation.begun(watch, streamed=watch.streamed and status < 300)

    def see(self, watch: Watch) -> None:
        watch.entry.first_token()
        self.observation.first_token(watch, self.now)

    def end(self, watch: Watch, status: int = 200, *, seen: bool | None = None) -> None:
        watch.entry.end()
        observed = watch.observe if seen is None else seen
        report = Report()
        if observed:
            report = Report(True, first_at=self.now, usage=Usage(5, 7), override_ignored=not watch.observe)
        self.observation.ended(watch, builders.request(), report, status, self.now)
        self.open.remove(watch)

    def count(self, slot: int, new: int) -> None:
        self.counts[slot] += new
        self.observation.first_tokens(slot, self.counts[slot], self.counts[slot] * 0.3, self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.observation.settle(self.now)

    def prefill(self) -> list[float]:
        return [float(tokens) for tokens in self.ledger.prefill_tokens(SLOTS)]


def test_a_prompt_leaves_when_its_first_token_is_due() -> None:
    world = World()
    assert world.send(0, 5000, AnswerView.NEVER) is not None
    world.wait(0.9)
    assert world.prefill() == [5000, 0, 0]
    world.wait(0.2)
    assert world.prefill() == [0, 0, 0]
    assert world.ledger.requests(SLOTS)[0] == 1


def test_the_backlog_before_it_delays_it() -> None:
    world = World()
    world.send(0, 5000, AnswerView.NEVER)
    world.send(0, 1000, AnswerView.NEVER)
    world.wait(1.1)
    assert world.prefill() == [1000, 0, 0]
    world.wait(0.2)
    assert world.prefill() == [0, 0, 0]


def test_no_first_token_comes_before_the_headers_of_its_answer() -> None:
    """Once headers are known to come at all; those of an answer in one piece come with its end."""
    world = World()
    first = world.send(0, 100, AnswerView.NEVER)
    assert first is not None
    world.begin(first)
    stalled = world.send(1, 1000, AnswerView.NEVER)
    whole = world.send(2, 1000, AnswerView.NEVER, stream=False)
    assert stalled is not None
    assert whole is not None
    world.wait(30.0)
    assert world.prefill() == [0, 1000, 0]
    world.begin(stalled)
    assert world.prefill() == [0, 0, 0]


def test_an_answer_in_one_piece_is_prefilled_at_its_headers_at_the_latest() -> None:
    world = World()
    watch = world.send(0, 50_000, AnswerView.NEVER, stream=False)
    assert watch is not None
    world.begin(watch)
    assert world.prefill() == [0, 0, 0]


def test_an_error_ends_the_wait() -> None:
    world = World()
    watch = world.send(0, 50_000, AnswerView.NEVER)
    assert watch is not None
    world.begin(watch, status=503)
    assert world.prefill() == [0, 0, 0]


def test_counts_of_the_engine_lead_the_estimate() -> None:
    world = World()
    world.send(0, 10, AnswerView.NEVER)
    world.wait(5.0)
    world.count(0, 1)
    world.wait(0.1)
    world.count(0, 0)
    world.send(0, 5000, AnswerView.NEVER)
    world.send(0, 700, AnswerView.NEVER)
    world.wait(0.1)
    world.count(0, 1)
    assert world.prefill() == [700, 0, 0], "sooner than the estimate"


def test_counts_that_stop_leave_it_to_the_estimate() -> None:
    world = World()
    world.send(0, 10, AnswerView.NEVER)
    world.wait(1.0)
    world.count(0, 1)
    world.wait(0.1)
    world.count(0, 0)
    world.send(0, 5000, AnswerView.NEVER)
    world.wait(1.5)
    assert world.prefill() == [5000, 0, 0], "a little longer than it"
    world.wait(2.0)
    assert world.prefill() == [0, 0, 0]


def test_what_ended_leaves_the_heap() -> None:
    world = World()
    for _ in range(5000):
        watch = world.send(0, 1_000_000, AnswerView.NEVER)
        assert watch is not None
        world.end(watch)
    assert len(world.observation.heap) < 2500
    assert world.prefill() == [0, 0, 0]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["send", "begin", "see", "end", "fail", "move", "wait", "count", "forget"]),
        st.integers(0, 2),
        st.integers(0, 20_000),
        st.sampled_from([AnswerView.CHOICE, AnswerView.NEVER]),
        st.booleans(),
    ),
    max_size=80,
)


@given(OPERATIONS, st.sampled_from(list(Mode)))
@settings(max_examples=300)
def test_the_ledger_never_goes_below_zero_and_nothing_is_left(
    operations: list[tuple[str, int, int, AnswerView, bool]], mode: Mode
) -> None:
    world = World(mode)
    for name, slot, number, view, flag in operations:
        watch = world.open[number % len(world.open)] if world.open else None
        if name == "send":
            world.send(slot, number, view, stream=flag)
        elif name == "wait":
            world.wait(number / 1000)
        elif name == "count":
            world.count(slot, number % 4)
        elif name == "forget":
            world.ledger.forget(slot)
            world.observation.forget(slot)
        elif watch is None:
            continue
        elif name == "begin":
            world.begin(watch)
        elif name == "see":
            world.see(watch)
        elif name == "move":
            watch.entry.move(slot)
        else:
            world.end(watch, 0 if name == "fail" else 200, seen=flag)
        assert min(world.prefill()) >= 0.0
        assert float(world.ledger.requests(SLOTS).min()) >= 0.0
        assert float(world.ledger.decode_tokens(SLOTS).min()) >= 0.0
    for watch in list(world.open):
        world.begin(watch)
    # Twelve hours later every first token has come, though no request has ended.
    world.wait(43_200.0)
    world.wait(43_200.0)
    assert all(watch.settled for watch in world.open if not watch.observe and watch in world.uncached)
    assert not any(watch.queued for watch in world.open)
    for watch in list(world.open):
        world.end(watch)
    assert world.prefill() == [0.0, 0.0, 0.0]
    assert world.ledger.open_entries == 0
    assert world.observation.heap == []
