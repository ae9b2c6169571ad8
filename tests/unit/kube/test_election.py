"""Who leads: never two, whatever is late or lost, while clocks keep within their bounds; and soon another."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.kube.election import Election, Record, Terms

TERMS = Terms()


@dataclass
class Server:
    """One Lease; a write goes through in place of the version that was read."""

    record: Record | None = None
    version: int = 0

    def write(self, record: Record, version: int) -> bool:
        if version != self.version:
            return False
        self.record, self.version = record, self.version + 1
        return True


@dataclass
class Candidate:
    """Goes in four steps, between which anything may happen: ask, be answered, send, be answered."""

    election: Election
    server: Server
    rate: float
    offset: float
    step: int = 0
    seen: tuple[Record | None, int] = (None, 0)
    sent: Record = field(default_factory=Record)
    sent_at: float = 0.0
    went_through: bool = False

    def now(self, time: float) -> float:
        return self.offset + self.rate * time

    def leads(self, time: float) -> bool:
        return self.election.is_leader(self.now(time))

    def go(self, time: float, *, lost: bool = False) -> None:
        """`lost`: nothing comes of this step, and the attempt is over."""
        now = self.now(time)
        if self.step == 0:
            self.seen = (self.server.record, self.server.version)
        elif self.step == 1 and not lost:
            self.election.saw(self.seen[0], now)
            if not self.election.may_write(now):
                lost = True
            self.sent = Record(self.election.identity, TERMS.lease_s, "", str(time))
            self.sent_at = now
        elif self.step == 2:  # what is lost on the way back went through all the same
            self.went_through = self.server.write(self.sent, self.seen[1])
        elif self.step == 3 and self.went_through and not lost:
            self.election.wrote(self.sent, self.sent_at, now)
        self.step = 0 if lost else (self.step + 1) % 4


RATES = st.sampled_from([0.82, 1.0, 1.22])
"""At most 1.49 times as fast as another: 15 s / 10 s is 1.5."""
TURNS = st.tuples(
    st.integers(0, 2),
    st.sampled_from([4, 4, 3, 2, 1]),
    st.sampled_from([False] * 9 + [True]),
    st.sampled_from(["", "", "free", 0.5, 9.0, 14.0]),
)
"""Who, how many steps, whether the last is lost, what passes before: time until it may write, or seconds."""


@settings(max_examples=1500)
@given(
    st.lists(st.tuples(RATES, st.sampled_from([0.0, -1e6, 1e6])), min_size=2, max_size=3),
    st.lists(TURNS, min_size=4, max_size=16),
)
def test_two_never_lead(
    clocks: list[tuple[float, float]], script: list[tuple[int, int, bool, float | str]]
) -> None:
    server = Server()
    candidates = [
        Candidate(Election(f"c{i}", TERMS), server, rate, offset) for i, (rate, offset) in enumerate(clocks)
    ]
    time = 0.0
    for who, steps, lost, pause in script:
        one = candidates[who % len(candidates)]
        if isinstance(pause, float):
            time += pause
        elif pause:
            while not one.election.may_write(one.now(time)):
                time += 0.25
        for left in reversed(range(steps)):
            one.go(time, lost=lost and left == 0)
            assert sum(one.leads(time) for one in candidates) <= 1


@given(st.floats(0.01, 0.99), st.floats(0, 100))
def test_a_leader_that_stops_is_followed_within_its_lease_and_one_retry(
    phase: float, stops_at: float
) -> None:
    server = Server()
    first, second = (Candidate(Election(name, TERMS), server, 1.0, 0.0) for name in "ab")
    time, next_at = 0.0, {0: 0.0, 1: phase}
    stopped_at = followed_at = None
    while followed_at is None:
        time = min(next_at.values())
        for i, one in enumerate((first, second)):
            if time != next_at[i]:
                continue
            if i == 0 and time >= stops_at and first.leads(time):
                stopped_at = time
                next_at[0] = float("inf")
                continue
            for _ in range(4):
                one.go(time)
                if one.step == 0:
                    break
            next_at[i] = time + one.election.wait_s(time)
        if second.leads(time):
            followed_at = time
        assert time < 1000
    assert stopped_at is not None
    assert followed_at <= stopped_at + TERMS.lease_s + TERMS.retry_s


def test_what_was_given_back_is_taken_at_once() -> None:
    election = Election("b", TERMS)
    election.saw(Record("a", 15, renewed="1"), 100.0)
    assert not election.may_write(114.9)
    assert election.wait_s(100.0) == TERMS.retry_s
    assert election.wait_s(114.0) == 1.0
    election.saw(Record("", 1, renewed="2"), 101.0)
    assert election.may_write(101.0)


def test_a_record_that_stays_the_same_runs_out_and_one_that_changes_does_not() -> None:
    election = Election("b", TERMS)
    for second in range(0, 60, 2):
        election.saw(Record("a", 15, renewed=str(second)), float(second))
        assert not election.may_write(second + 1.0)
    election.saw(Record("a", 15, renewed="58"), 72.0)
    assert not election.may_write(72.9)
    assert election.may_write(73.0)


def test_the_lead_ends_at_the_deadline_or_when_another_is_named_or_the_lease_is_gone() -> None:
    mine = Record("a", 15, renewed="1")
    for seen in (Record("b", 15), None):
        election = Election("a", TERMS)
        election.wrote(mine, 100.0, 101.0)
        assert election.is_leader(109.9)
        assert not election.is_leader(110.0)
        election.saw(mine, 103.0)
        assert election.is_leader(103.0)
        election.saw(seen, 104.0)
        assert not election.is_leader(104.0)


def test_finding_oneself_named_is_not_leading() -> None:
    """An answer that was lost: the write may have gone through long ago."""
    election = Election("a", TERMS)
    election.saw(Record("a", 15), 100.0)
    assert not election.is_leader(100.0)
    assert election.may_write(100.0)
    election.wrote(Record("a", 15, renewed="2"), 100.0, 100.1)
    assert election.is_leader(100.1)
    election.resign()
    assert not election.is_leader(100.1)


@pytest.mark.parametrize("terms", [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_terms_that_cannot_work(terms: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="lease_s > renew_s > retry_s > 0"):
        Terms(*terms)
