"""First tokens by the engines' own counts: the longest waiting first, as many as are ours."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from epp.datalayer.observation.told import Told


@dataclass
class Waiting:
    settled: bool = False

    def first_token(self) -> None:
        assert not self.settled
        self.settled = True


def sent(told: Told, count: int, now: float, tokens: float = 1000) -> list[Waiting]:
    requests = [Waiting() for _ in range(count)]
    for request in requests:
        told.sent(tokens)
        told.wait(request, now)
    return requests


def come(requests: list[Waiting]) -> list[bool]:
    return [request.settled for request in requests]


def test_without_counts_nobody_waits_for_them() -> None:
    told = Told(0.05)
    assert not told.wait(Waiting(), 5.0)
    assert not told.enough
    told.counts(7, 1.0, 5.0)
    told.counts(7, 1.0, 5.1)
    assert told.wait(Waiting(), 5.2)
    assert not told.wait(Waiting(), 60.0), "the engine has not been scraped for long"


def test_the_longest_waiting_is_first() -> None:
    told = Told(0.05)
    told.counts(100, 50.0, 0.0)
    told.counts(100, 50.0, 0.1)
    requests = sent(told, 3, 0.15)
    told.counts(102, 50.4, 0.2)
    assert come(requests) == [True, True, False]
    told.counts(103, 50.7, 0.3)
    assert come(requests) == [True, True, True]


def test_one_whose_end_was_seen_before_the_count_is_in_the_count() -> None:
    told = Told(0.05)
    told.counts(0, 0.0, 0.0)
    told.counts(0, 0.0, 0.1)
    requests = sent(told, 3, 0.15)
    requests[0].settled = True
    told.counts(1, 0.1, 0.2)
    assert come(requests) == [True, False, False]
    told.counts(2, 0.2, 0.3)
    assert come(requests) == [True, True, False]


def test_a_restarted_engine_begins_anew() -> None:
    told = Told(0.05)
    told.counts(100, 50.0, 0.0)
    told.counts(100, 50.0, 0.1)
    requests = sent(told, 2, 0.15)
    told.counts(1, 0.1, 0.2)
    told.counts(2, 0.2, 0.3)
    assert come(requests) == [False, False], "they went down with it"


def test_counts_that_nobody_read_for_long_say_nothing() -> None:
    told = Told(0.05)
    told.counts(100, 50.0, 0.0)
    told.counts(100, 50.0, 0.1)
    requests = sent(told, 1, 0.15)
    told.counts(5000, 4000.0, 100.0)
    assert come(requests) == [False]
    assert not told.enough


def test_of_anothers_requests_our_share_is_taken() -> None:
    told = Told(0.05)
    count = 0.0
    waiting: list[Waiting] = []
    told.counts(0, 0.0, 0.0)
    told.counts(0, 0.0, 0.1)
    for turn in range(400):
        now = 0.2 + 0.1 * turn
        waiting += sent(told, 1, now)
        count += 4
        told.counts(count, count * 0.5, now + 0.05)
    assert 395 <= sum(come(waiting)) <= 400
    assert told.base_s + told.token_s * 1000 == pytest.approx(0.5, rel=0.02)


def test_estimates_give_the_mean_that_the_engine_tells() -> None:
    told = Told(0.05)
    told.counts(0, 0.0, 0.0)
    for turn in range(1, 50):
        for tokens in (200, 2000, 6000):
            told.sent(tokens)
        told.counts(3 * turn, 3 * turn * 0.7, turn)
    assert told.base_s + told.token_s * (200 + 2000 + 6000) / 3 == pytest.approx(0.7, rel=0.01)
