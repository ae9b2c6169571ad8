"""The constants against the published figures that they come from."""

from __future__ import annotations

import pytest

from epp.sim.clock import simulate
from epp.sim.engine import Engine
from epp.sim.profile import DEFAULT, PROFILES
from epp.sim.sequence import Work

PUBLISHED = {
    # time to first token of 256 tokens (ms), time between tokens (ms), KV tokens of a pod
    "llama-3.1-8b-h100": ((60, 120), (10, 15), (400_000, 440_000)),
    "llama-3.1-70b-8xh100": ((150, 250), (18, 28), (461_376, 461_376)),
    "qwen3-32b-2xh100": ((160, 280), (20, 30), (307_328, 307_328)),
    "small-l40s": ((90, 125), (13, 17), (250_000, 350_000)),
}


def test_the_default_is_there() -> None:
    assert DEFAULT in PROFILES
    assert PUBLISHED.keys() <= PROFILES.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_idle_engine_is_as_fast_as_published(name: str) -> None:
    ttft_ms, between_ms, kv_tokens = PUBLISHED[name]
    one = Engine(PROFILES[name], seed=1)
    served = simulate([one], [(60.0 * i, Work(str(i), 256, 101)) for i in range(20)], lambda now, new: 0)
    sequences = [s.sequence for s in served if s.sequence is not None]
    ttft = sum(s.first_token_at - s.arrived_at for s in sequences) / 20
    between = sum(s.finished_at - s.first_token_at for s in sequences) / 20 / 100
    assert ttft_ms[0] <= 1000 * ttft <= ttft_ms[1]
    assert between_ms[0] <= 1000 * between <= between_ms[1]
    assert kv_tokens[0] <= one.profile.kv_blocks * one.profile.block_tokens <= kv_tokens[1]


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_builds(name: str) -> None:
    assert Engine(PROFILES[name]).kv.available == PROFILES[name].kv_blocks
