"""The prefix index against a plain model of what it promises, and its bounds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from epp.plugins.prefix_index import PrefixIndex

SLOTS = 12
ENDPOINTS = st.sampled_from([*range(SLOTS - 2), 70, 130])
"""Slots on both sides of a machine word."""
CHAINS = st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 3), st.integers(0, 6)).map(
    lambda t: [(1, t[0], i) for i in range(t[1])] + [(2, t[0], t[1], t[2], i) for i in range(t[3])]
)
"""Chains with common heads that part into branches, like prompts."""


def keys(chain: list[tuple[object, ...]]) -> list[int]:
    """A hash stands for the whole prefix, so equal prefixes have equal keys and others have not."""
    return [hash(tuple(chain[: i + 1])) & (2**64 - 1) for i in range(len(chain))]


def lengths(index: PrefixIndex, chain: list[int]) -> list[float]:
    found = np.zeros(140)
    index.match(chain, found)
    return found.tolist()


class Model(RuleBasedStateMachine):
    """Each endpoint keeps a list of blocks, most recent last."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.held: dict[int, list[int]] = {}

    @rule(slot=ENDPOINTS, chain=CHAINS, capacity=st.integers(1, 30))
    def learn(self, slot: int, chain: list[tuple[object, ...]], capacity: int) -> None:
        blocks = keys(chain)
        self.index.learn(slot, blocks, capacity)
        kept = blocks[:capacity]
        held = self.held.setdefault(slot, [])
        held[:] = [key for key in held if key not in kept] + kept[::-1]
        del held[: max(0, len(held) - capacity)]

    @rule(slot=ENDPOINTS)
    def forget(self, slot: int) -> None:
        self.index.forget(slot)
        self.held.pop(slot, None)

    @rule(chain=CHAINS)
    def match(self, chain: list[tuple[object, ...]]) -> None:
        blocks = keys(chain)
        found = lengths(self.index, blocks)
        for slot in range(140):
            held = self.held.get(slot, [])
            front = 0
            while front < len(blocks) and blocks[front] in held:
                front += 1
            assert found[slot] == front

    @invariant()
    def counts(self) -> None:
        assert self.index.entries == sum(map(len, self.held.values()))
        assert self.index.blocks == len({key for held in self.held.values() for key in held})
        assert {slot: n for slot, n in self.index.sizes().items() if n} == {
            slot: len(held) for slot, held in self.held.items() if held
        }


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_matches_are_contiguous_from_the_front() -> None:
    index = PrefixIndex()
    index.learn(0, [1, 2, 3, 4], 100)
    index.learn(1, [2, 3, 4], 100)
    assert lengths(index, [1, 2, 3, 4])[:2] == [4.0, 0.0]
    assert lengths(index, [1, 2, 9, 4])[:2] == [2.0, 0.0]
    assert lengths(index, [9, 2, 3, 4])[:2] == [0.0, 0.0]
    assert lengths(index, []) == [0.0] * 140


def test_matches_of_several_prompts_add_up() -> None:
    index = PrefixIndex()
    index.learn(3, [1, 2], 100)
    index.learn(3, [8, 9], 100)
    found = np.zeros(140)
    index.match([1, 2], found)
    index.match([8, 7], found)
    assert found[3] == 3.0


def test_the_tail_of_the_oldest_chain_goes_first() -> None:
    index = PrefixIndex()
    index.learn(0, [1, 2, 3, 4], 6)
    index.learn(0, [10, 11, 12], 6)
    assert lengths(index, [1, 2, 3, 4])[0] == 3.0
    assert lengths(index, [10, 11, 12])[0] == 3.0


def test_use_keeps_a_chain() -> None:
    index = PrefixIndex()
    index.learn(0, [1, 2, 3], 6)
    index.learn(0, [10, 11, 12], 6)
    index.learn(0, [1, 2, 3], 6)
    index.learn(0, [20, 21, 22], 6)
    assert lengths(index, [1, 2, 3])[0] == 3.0
    assert lengths(index, [10, 11, 12])[0] == 0.0


def test_memory_is_shared_evenly_when_it_is_short() -> None:
    index = PrefixIndex(max_entries=1000)
    for turn in range(300):
        for slot in range(10):
            index.learn(slot, [hash((slot, turn, i)) for i in range(20)], 31_250)
    assert index.entries <= 1000
    assert set(index.sizes().values()) == {100}


def test_a_capacity_that_shrinks_is_reached_step_by_step() -> None:
    index = PrefixIndex()
    for turn in range(100):
        index.learn(0, [hash((turn, i)) for i in range(100)], 10_000)
    sizes = [index.entries]
    for turn in range(60):
        index.learn(0, [turn], 100)
        sizes.append(index.entries)
    assert sizes[0] == 10_000
    assert sizes[-1] == 6_100
    assert all(before - after <= 66 for before, after in pairwise(sizes))


@pytest.mark.parametrize("held_by", [1, 8, 9, 130])
@given(length=st.integers(1, 5), more=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_many_that_drop_out_at_once(held_by: int, length: int, more: int) -> None:
    index = PrefixIndex()
    chain = [hash((3, i)) for i in range(length + more)]
    for slot in range(held_by):
        index.learn(slot, chain[:length], 100)
    index.learn(139, chain, 100)
    found = lengths(index, chain)
    assert found[:held_by] == [float(length)] * held_by
    assert found[139] == length + more
