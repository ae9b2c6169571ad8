"""The approximate prefix producer: what it matches, what it learns, how it tunes itself."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from epp.datalayer.inflight import Ledger
from epp.domain.decision import Decision, ProfileRun
from epp.domain.request import Prompt, Request
from epp.domain.snapshot import Snapshot
from epp.plugins.signals import APPROXIMATE_PREFIX as NAME
from epp.scheduling.contract import Cycle, PrefixMatch
from epp.scheduling.scheduler import PREFIX_TOKENS
from tests.builders import request, snapshot
from tests.laws.world import build


def produce(plugin: Any, asked: Request, pool: Snapshot) -> Cycle:
    cycle = Cycle(request=asked, snapshot=pool, now=1.0, rng=Random(1), inflight=Ledger())
    plugin.produce(cycle)
    return cycle


def decide(cycle: Cycle, row: int, *, prefill: int | None = None) -> Decision:
    pool = cycle.snapshot
    rows = np.arange(len(pool))
    picks = {"decode": row} | ({} if prefill is None else {"prefill": prefill})
    runs = [ProfileRun(name, rows, (), rows, (), np.zeros(len(pool)), (at,)) for name, at in picks.items()]
    asked = cycle.request
    return Decision(
        asked.id, 1.0, "base", "base", pool, (pool.endpoints[row],), "decode", tuple(runs),
        asked.input_tokens, 0,
    )  # fmt: skip


def send(plugin: Any, asked: Request, pool: Snapshot, row: int, **more: Any) -> Cycle:
    cycle = produce(plugin, asked, pool)
    plugin.chosen(cycle, decide(cycle, row, **more))
    return cycle


def matched(plugin: Any, asked: Request, pool: Snapshot) -> list[float]:
    return produce(plugin, asked, pool).prefix[NAME].matched_blocks.tolist()


TEXT = Random(3).randbytes(256 * 10)


def test_what_was_sent_is_cached() -> None:
    plugin, pool = build(NAME), snapshot(3)
    assert matched(plugin, request(TEXT), pool) == [0.0, 0.0, 0.0]
    send(plugin, request(TEXT), pool, 1)
    cycle = produce(plugin, request(TEXT + b"and more"), pool)
    match = cycle.prefix[NAME]
    assert isinstance(match, PrefixMatch)
    assert match.matched_blocks.tolist() == [0.0, 10.0, 0.0]
    assert (match.total_blocks, match.block_tokens) == (11, 64)
    assert cycle.columns[PREFIX_TOKENS].tolist() == [0.0, 640.0, 0.0]


def test_cached_tokens_never_exceed_the_prompt() -> None:
    plugin, pool = build(NAME), snapshot(1)
    asked = request(b"short")
    send(plugin, asked, pool, 0)
    assert produce(plugin, asked, pool).columns[PREFIX_TOKENS].tolist() == [asked.input_tokens]


@pytest.mark.parametrize("other", [{"model": "other"}, {"cache_salt": "salt"}])
def test_other_models_and_salts_share_nothing(other: dict[str, Any]) -> None:
    plugin, pool = build(NAME), snapshot(1)
    send(plugin, request(TEXT), pool, 0)
    assert matched(plugin, request(TEXT), pool) == [10.0]
    assert matched(plugin, request(TEXT, **other), pool) == [0.0]


def test_several_prompts_are_matched_apart_and_summed() -> None:
    plugin, pool = build(NAME), snapshot(1)
    send(plugin, request(TEXT), pool, 0)
    both = request(prompts=(Prompt(text=TEXT), Prompt(text=TEXT[:512] + bytes(512))))
    match = produce(plugin, both, pool).prefix[NAME]
    assert match.matched_blocks.tolist() == [12.0]
    assert match.total_blocks == 14


def test_the_prefill_endpoint_learns_too() -> None:
    plugin, pool = build(NAME), snapshot(3)
    send(plugin, request(TEXT), pool, 0, prefill=2)
    assert matched(plugin, request(TEXT), pool) == [10.0, 0.0, 10.0]


def test_the_endpoint_that_served_learns_too() -> None:
    plugin, pool = build(NAME), snapshot(3)
    cycle = send(plugin, request(TEXT), pool, 0)
    plugin.answer_headers(cycle.request, decide(cycle, 0), pool.endpoints[2].authority)
    assert matched(plugin, request(TEXT), pool) == [10.0, 0.0, 10.0]


def test_an_endpoint_that_served_and_left_does_no_harm() -> None:
    plugin, pool = build(NAME), snapshot(3)
    cycle = send(plugin, request(TEXT), pool, 0)
    smaller = snapshot(endpoints=pool.endpoints[:2])
    plugin.forget(2)
    plugin.answer_headers(cycle.request, decide(cycle, 0), pool.endpoints[2].authority)
    assert matched(plugin, request(TEXT), smaller) == [10.0, 0.0]


def test_slots_not_rows_are_remembered() -> None:
    plugin, pool = build(NAME), snapshot(3)
    send(plugin, request(TEXT), pool, 2)
    smaller = snapshot(endpoints=pool.endpoints[1:])
    assert matched(plugin, request(TEXT), smaller) == [0.0, 10.0]
    plugin.forget(2)
    assert matched(plugin, request(TEXT), smaller) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("parameters", "reported", "block"),
    [
        ({}, [0, 0], 64),
        ({}, [16, 16], 64),
        ({}, [0, 128], 128),
        ({"autoTune": False}, [128, 128], 64),
        ({"autoTune": False, "blockSizeTokens": 256}, [128, 128], 256),
        ({"blockSize": 512}, [0, 0], 512),
    ],
)
def test_block_size(parameters: dict[str, Any], reported: list[int], block: int) -> None:
    pool = snapshot(block_size=reported, n=2)
    match = produce(build(NAME, **parameters), request(TEXT), pool).prefix[NAME]
    assert match.block_tokens == block
    assert match.total_blocks == -(-len(TEXT) // (4 * block))


def test_a_new_pool_may_have_other_blocks() -> None:
    plugin = build(NAME)
    for columns, block in (({}, 64), ({"block_size": [128]}, 128), ({"block_size": [96, 32]}, 96)):
        pool = snapshot(len(columns.get("block_size", [0])), **columns)
        assert produce(plugin, request(TEXT), pool).prefix[NAME].block_tokens == block


@pytest.mark.parametrize(
    ("parameters", "total"),
    [
        ({"maxPrefixTokensToMatch": 192}, 3),
        ({"maxPrefixTokensToMatch": 192, "maxPrefixBlocksToMatch": 2}, 3),
        ({"maxPrefixTokensToMatch": 0, "maxPrefixBlocksToMatch": 2}, 2),
        ({"maxPrefixTokensToMatch": 0, "maxPrefixBlocksToMatch": 0}, 10),
        ({"maxPrefixTokensToMatch": 10}, 1),
    ],
)
def test_limits_of_the_match(parameters: dict[str, Any], total: int) -> None:
    assert produce(build(NAME, **parameters), request(TEXT), snapshot(1)).prefix[NAME].total_blocks == total


@pytest.mark.parametrize(
    ("parameters", "columns", "entries"),
    [
        ({"lruCapacityPerServer": 7}, {}, 7),
        # 20 blocks of 16 tokens hold 5 of our blocks of 64.
        ({}, {"num_blocks": [20], "block_size": [16]}, 5),
        ({"autoTune": False}, {"num_blocks": [20], "block_size": [16]}, 10),
    ],
)
def test_capacity(parameters: dict[str, Any], columns: dict[str, Any], entries: int) -> None:
    plugin = build(NAME, **parameters)
    send(plugin, request(TEXT), snapshot(1, **columns), 0)
    state = plugin.dump_state()
    assert state["entries"] == entries
    assert state["entriesBySlot"] == {"0": entries}


def test_requests_without_a_prompt_are_left_alone() -> None:
    plugin = build(NAME)
    cycle = produce(plugin, request(prompts=()), snapshot(2))
    assert not cycle.prefix
    plugin.chosen(cycle, decide(cycle, 0))
    assert plugin.dump_state()["entries"] == 0


def test_the_prompt_is_hashed_once() -> None:
    plugin, pool = build(NAME), snapshot(2)
    cycle = produce(plugin, request(TEXT), pool)
    cycle.request.prompts = (Prompt(text=b"never looked at"),)
    plugin.chosen(cycle, decide(cycle, 1))
    assert matched(plugin, request(TEXT), pool) == [0.0, 10.0]
