"""Which answers are looked at: the first, then few, all where they are rare, and never more than the rate."""

from __future__ import annotations

from random import Random

import pytest

from epp.datalayer.observation.sampling import Sampler, Schedule


def asked(sampler: Sampler, schedule: Schedule, *, per_s: float, seconds: float, tokens: float = 500) -> int:
    count = int(per_s * seconds)
    return sum(sampler.wants(schedule, tokens, 1000.0 + i / per_s) for i in range(count))


def test_the_first_few_are_all_looked_at() -> None:
    sampler, schedule = Sampler(Random(1)), Schedule()
    assert [sampler.wants(schedule, 500, 1000.0 + i / 100) for i in range(12)] == [True] * 8 + [False] * 4


@pytest.mark.parametrize("per_s", [2.0, 50.0, 500.0])
def test_then_about_one_an_interval_whatever_the_traffic(per_s: float) -> None:
    sampler, schedule = Sampler(Random(2), interval_s=5.0), Schedule()
    assert 100 <= asked(sampler, schedule, per_s=per_s, seconds=600) <= 145  # 120, the first, and the minutes


def test_rare_requests_are_all_looked_at() -> None:
    sampler, schedule = Sampler(Random(3), interval_s=5.0), Schedule()
    assert asked(sampler, schedule, per_s=0.1, seconds=600) == 60


def test_a_size_that_was_not_seen_lately_is_looked_at() -> None:
    sampler, schedule = Sampler(Random(4), interval_s=1000.0), Schedule()
    for i in range(20):
        sampler.wants(schedule, 100, 1000.0 + i / 100)
    assert not sampler.wants(schedule, 100, 1001.0)
    assert sampler.wants(schedule, 50_000, 1001.0)
    assert not sampler.wants(schedule, 50_000, 1002.0)
    assert sampler.wants(schedule, 50_000, 1062.0)


def test_all_together_keep_to_the_rate() -> None:
    sampler = Sampler(Random(5), interval_s=0.001, rate=10.0)
    schedules = [Schedule() for _ in range(1000)]
    taken = [0] * 1000
    for i in range(100_000):
        taken[i % 1000] += sampler.wants(schedules[i % 1000], 500, 1000.0 + i / 1000)
    assert sum(taken) == pytest.approx(10 * 100 + 50, abs=2)
