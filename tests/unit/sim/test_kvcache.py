"""The KV cache against a slow model of itself."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from epp.sim.kvcache import KvCache

BLOCKS = 8


class Cache(RuleBasedStateMachine):
    """Holders take chains of blocks the way the engine does, and give them back in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = KvCache(BLOCKS)
        self.holders: list[tuple[list[int], int]] = []
        self.recent: list[int] = []
        """Findable keys that nobody holds, least recently released first."""

    def held(self) -> set[int]:
        return {key for keys, _ in self.holders for key in keys}

    @rule(chain=st.integers(0, 2), length=st.integers(1, 4), partial=st.booleans())
    def prefill(self, chain: int, length: int, partial: bool) -> None:
        keys = [chain * 100 + i for i in range(length)]
        findable = self.held() | set(self.recent)
        hits = 0
        while hits < length and keys[hits] in findable:
            hits += 1
        assert self.kv.match(keys, length) == hits
        need = length - hits + partial
        idle = self.kv.idle_among(keys, hits)
        assert idle == sum(key in self.recent for key in keys[:hits])
        if need > self.kv.available - idle:
            return
        self.kv.hold(keys, hits)
        self.recent = [key for key in self.recent if key not in keys[:hits]]
        shared = keys[:hits]
        free = BLOCKS - len(self.held() | set(shared)) - sum(p for _, p in self.holders) - len(self.recent)
        evicted = self.recent[: max(0, need - free)]
        self.kv.take(need)
        self.recent = self.recent[len(evicted) :]
        for key in evicted:
            assert key not in self.kv
        private = need
        for key in keys[hits:]:
            if self.kv.publish(key):
                assert key not in self.held()
                assert key not in self.recent
                private -= 1
                shared.append(key)
        self.holders.append((shared, private))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        keys, private = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.kv.release(keys, private)
        still = self.held()
        self.recent += [key for key in reversed(keys) if key not in still]

    @invariant()
    def counts(self) -> None:
        used = len(self.held()) + sum(private for _, private in self.holders)
        assert self.kv.used == used
        assert self.kv.available == BLOCKS - used
        assert self.kv.cached == len(self.held()) + len(self.recent)
        assert 0 <= self.kv.cached <= BLOCKS
        assert self.kv.usage == used / BLOCKS


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_the_end_of_a_prefix_goes_before_its_front() -> None:
    kv = KvCache(4)
    kv.take(4)
    for key in (1, 2, 3, 4):
        assert kv.publish(key)
    kv.release([1, 2, 3, 4], 0)
    kv.take(2)
    assert [key in kv for key in (1, 2, 3, 4)] == [True, True, False, False]
    assert kv.evictions == 2


def test_clear_forgets_what_nobody_holds() -> None:
    kv = KvCache(4)
    kv.take(2)
    kv.publish(1)
    kv.publish(2)
    kv.release([2], 0)
    kv.clear()
    assert 1 in kv
    assert 2 not in kv
