"""The prefix index against an LRU of single blocks, whatever the chains; its bounds."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from sys import getrefcount

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from epp.domain.snapshot import Floats
from epp.plugins.prefix_index import PrefixIndex
from epp.plugins.prefix_segments import Segment
from tests.unit.plugins.prefix_laws import assert_sound, blocks

SLOTS = 140
ENDPOINTS = st.sampled_from([0, 1, 2, 3, 70, 130])
WIDE = 11
"""Endpoints that learn the same in one step: more than are credited one by one."""
TALKS = st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 3), st.integers(0, 6)).map(
    lambda t: [t[0] + 1] * t[1] + [10 + t[2]] * t[3]
)
"""Common heads that part into branches, like prompts."""
WORDS = st.lists(st.integers(0, 1), max_size=12)
"""All of a tiny alphabet, so that chains part, end and repeat themselves anywhere."""
CHAINS = st.one_of(TALKS, WORDS).map(tuple)
Path = tuple[int, ...]


def matched(index: PrefixIndex, chain: bytes, slots: int = SLOTS) -> Floats:
    found = np.zeros(slots)
    index.match(chain, found)
    return found


class Model(RuleBasedStateMachine):
    """Each endpoint keeps a list of blocks, most recent last. A block is its whole prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.held: dict[int, list[Path]] = {}
        self.swept = True

    def use(self, slot: int, path: Path, capacity: int) -> None:
        held = self.held.setdefault(slot, [])
        kept = [path[: i + 1] for i in range(min(len(path), capacity))]
        held[:] = [block for block in held if block not in kept] + kept[::-1]
        # Of what a shrunken capacity leaves over, a part goes with every prompt.
        del held[: max(0, min(len(held) - capacity, 2 * len(path) + 64))]

    @rule(slot=ENDPOINTS, path=CHAINS, capacity=st.sampled_from([1, 5, 12, 13, 30, 1000]))
    def learn(self, slot: int, path: Path, capacity: int) -> None:
        self.index.learn(slot, blocks(*path), capacity)
        self.use(slot, path, capacity)

    @rule(slot=ENDPOINTS, path=CHAINS, step=st.integers(1, 3))
    def talk(self, slot: int, path: Path, step: int) -> None:
        """A conversation that grows turn by turn at one endpoint."""
        for end in range(step, len(path) + 1, step):
            self.learn(slot, path[:end], 30)

    @rule(path=CHAINS, first=st.integers(0, 90), capacity=st.sampled_from([5, 30]))
    def spread(self, path: Path, first: int, capacity: int) -> None:
        for slot in range(first, first + WIDE):
            self.learn(slot, path, capacity)

    @rule(slot=ENDPOINTS)
    def forget(self, slot: int) -> None:
        self.index.forget(slot)
        self.held.pop(slot, None)
        self.swept = False

    @rule(amount=st.integers(1, 40))
    def sweep(self, amount: int) -> None:
        self.index.sweep(amount)

    @precondition(lambda self: not self.swept)
    @rule()
    def sweep_all(self) -> None:
        self.index.sweep(10**9)
        self.swept = True

    @rule(path=CHAINS)
    def match(self, path: Path) -> None:
        found = matched(self.index, blocks(*path))
        for slot in range(SLOTS):
            held = self.held.get(slot, [])
            front = 0
            while front < len(path) and path[: front + 1] in held:
                front += 1
            assert found[slot] == front

    @invariant()
    def counts(self) -> None:
        different = len({block for held in self.held.values() for block in held})
        assert self.index.entries == sum(map(len, self.held.values()))
        assert self.index.blocks == different if self.swept else self.index.blocks >= different
        assert {slot: n for slot, n in self.index.sizes().items() if n} == {
            slot: len(held) for slot, held in self.held.items() if held
        }

    @invariant()
    def sound(self) -> None:
        assert_sound(self.index)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_life(seed: int) -> None:
    """Conversations that move between full endpoints, which come and go."""
    rng = Random(seed)
    model = Model()
    talks = [[rng.randrange(2) for _ in range(rng.randrange(1, 6))] for _ in range(12)]
    for turn in range(1500):
        talk = rng.choice(talks)
        talk.extend([rng.randrange(3)] * rng.randrange(4))
        if len(talk) > 40:
            del talk[rng.randrange(1, 6) :]
        model.learn(rng.randrange(6), tuple(talk), 60)
        if turn % 10 == 0:
            model.match(tuple(rng.choice(talks)))
            model.sound()
        if rng.random() < 0.01:
            model.forget(rng.randrange(6))
        if rng.random() < 0.02:
            model.sweep_all()
    model.counts()


def test_matches_are_contiguous_from_the_front() -> None:
    index = PrefixIndex()
    index.learn(0, blocks(1, 2, 3, 4), 100)
    index.learn(1, blocks(2, 3, 4), 100)
    assert matched(index, blocks(1, 2, 3, 4))[:2].tolist() == [4.0, 0.0]
    assert matched(index, blocks(1, 2, 9, 4))[:2].tolist() == [2.0, 0.0]
    assert matched(index, blocks(9, 2, 3, 4))[:2].tolist() == [0.0, 0.0]
    assert not matched(index, b"").any()


def test_matches_of_several_prompts_add_up() -> None:
    index = PrefixIndex()
    index.learn(3, blocks(1, 2), 100)
    index.learn(3, blocks(8, 9), 100)
    found = np.zeros(SLOTS)
    index.match(blocks(1, 2), found)
    index.match(blocks(8, 7), found)
    assert found[3] == 3.0


def test_the_tail_of_the_oldest_chain_goes_first() -> None:
    index = PrefixIndex()
    index.learn(0, blocks(1, 2, 3, 4), 6)
    index.learn(0, blocks(10, 11, 12), 6)
    assert matched(index, blocks(1, 2, 3, 4))[0] == 3.0
    assert matched(index, blocks(10, 11, 12))[0] == 3.0


def test_use_keeps_a_chain() -> None:
    index = PrefixIndex()
    index.learn(0, blocks(1, 2, 3), 6)
    index.learn(0, blocks(10, 11, 12), 6)
    index.learn(0, blocks(1, 2, 3), 6)
    index.learn(0, blocks(20, 21, 22), 6)
    assert matched(index, blocks(1, 2, 3))[0] == 3.0
    assert matched(index, blocks(10, 11, 12))[0] == 0.0


def test_memory_is_shared_evenly_when_it_is_short() -> None:
    index = PrefixIndex(max_entries=1000)
    for turn in range(300):
        for slot in range(10):
            index.learn(slot, blocks(slot, turn, *range(18)), 31_250)
    assert index.entries <= 1000
    assert set(index.sizes().values()) == {100}


def test_a_capacity_that_shrinks_is_reached_step_by_step() -> None:
    index = PrefixIndex()
    for turn in range(100):
        index.learn(0, blocks(turn, *range(99)), 10_000)
    sizes = [index.entries]
    for turn in range(60):
        index.learn(0, blocks(1000 + turn), 100)
        sizes.append(index.entries)
    assert sizes[0] == 10_000
    assert sizes[-1] == 6_100
    assert all(before - after <= 66 for before, after in pairwise(sizes))


@pytest.mark.parametrize("held_by", [1, 8, 9, 130])
@given(length=st.integers(1, 5), more=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_many_that_drop_out_at_once(held_by: int, length: int, more: int) -> None:
    index = PrefixIndex()
    chain = blocks(*range(length + more))
    for slot in range(held_by):
        index.learn(slot, chain[: 8 * length], 100)
    index.learn(139, chain, 100)
    found = matched(index, chain).tolist()
    assert found[:held_by] == [float(length)] * held_by
    assert found[139] == length + more


def test_what_departed_endpoints_left_never_exceeds_what_was_there() -> None:
    """However often the whole pool is replaced, and whatever it learns meanwhile."""
    rng = Random(5)
    index = PrefixIndex()
    most = 0
    for turn in range(2000):
        path = (turn, *range(rng.randrange(40)))
        index.learn(rng.randrange(8), blocks(*path), 200)
        most = max(most, index.blocks)
        if turn % 90 == 89:
            for slot in range(8):
                index.forget(slot)
            assert index.entries == 0
    # Eight endpoints of 200 blocks; a prompt is learned before its share is cleaned away.
    assert most <= 8 * 200 + 40
    assert_sound(index)


def test_a_new_endpoint_in_an_old_slot_starts_empty() -> None:
    index = PrefixIndex()
    chain = blocks(*range(500))
    for slot in range(12):
        index.learn(slot, chain, 1000)
    index.forget(3)
    index.learn(3, blocks(0, 1, 77), 1000)
    assert matched(index, chain)[:13].tolist() == [500.0] * 3 + [2.0] + [500.0] * 8 + [0.0]
    index.sweep(10**9)
    assert matched(index, chain)[:13].tolist() == [500.0] * 3 + [2.0] + [500.0] * 8 + [0.0]


def test_a_very_deep_tree_comes_and_goes() -> None:
    index = PrefixIndex(max_entries=10**9)
    depth = 5_000
    chain = blocks(*range(depth))
    for end in range(depth, 0, -1):
        # Another endpoint ends at every block: no two segments have the same holders.
        index.learn(depth - end, chain[: 8 * end], depth)
        if end < depth - 1500:
            break
    found = matched(index, chain, 1600)
    assert found[0] == depth
    assert found[1500] == depth - 1500
    for slot in range(1, 1600):
        index.forget(slot)
    index.sweep(10**9)
    assert index.blocks == index.entries == depth
    index.learn(0, blocks(1), 1)
    while index.entries > 1:
        index.learn(0, blocks(1), 1)
    assert index.blocks == 1
    assert_sound(index)


def test_an_index_that_is_dropped_takes_its_tree_along() -> None:
    index = PrefixIndex()
    for turn in range(50):
        index.learn(turn % 3, blocks(1, 2, turn % 7, turn), 100)
    index.forget(1)
    top, unknown = index._tree.top, Segment(b"", 0)
    del index
    assert getrefcount(top) == getrefcount(unknown), "no stretch points to it any more"
