"""The KV cache: full blocks shared by key, least recently used ones evicted, the rest counted.

As in vLLM's block pool: a block that no sequence holds stays findable until its space is needed; a
sequence gives its blocks back tail first, so the front of a prefix outlives its end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class KvCache:
    """Blocks of one engine. A block is free, private (partial or a duplicate), shared (findable by its
    key, held by one or more sequences), or idle (findable, held by none)."""

    __slots__ = ("_idle", "_private", "_shared", "blocks", "evictions")

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.evictions = 0
        self._private = 0
        self._shared: dict[int, int] = {}
        """Key to number of holders."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Least recently used first. Not a dict: that walks over deleted entries to find the first."""

    @property
    def used(self) -> int:
        """Blocks held by sequences."""
        return self._private + len(self._shared)

    @property
    def usage(self) -> float:
        """Share of blocks held by sequences, 0 to 1; idle ones count as free, as vLLM reports it."""
        return (self._private + len(self._shared)) / self.blocks

    @property
    def cached(self) -> int:
        """Blocks findable by key."""
        return len(self._shared) + len(self._idle)

    @property
    def available(self) -> int:
        """Blocks that could be taken, after evicting."""
        return self.blocks - self._private - len(self._shared)

    def __contains__(self, key: int) -> bool:
        return key in self._shared or key in self._idle

    def match(self, keys: Sequence[int], limit: int) -> int:
        """How many blocks from the front are cached, at most `limit`."""
        shared, idle = self._shared, self._idle
        n = 0
        for key in keys:
            if n >= limit or (key not in shared and key not in idle):
                break
            n += 1
        return n

    def idle_among(self, keys: Sequence[int], n: int) -> int:
        """How many of the first n keys are idle: holding them makes that many less available."""
        idle = self._idle
        return sum([key in idle for key in keys[:n]])

    def hold(self, keys: Sequence[int], n: int) -> None:
        """Takes a share in the first n cached blocks."""
        shared, idle = self._shared, self._idle
        for key in keys[:n]:
            if key in shared:
                shared[key] += 1
            else:
                del idle[key]
                shared[key] = 1

    def take(self, n: int) -> None:
        """Takes n private blocks, evicting as needed. The caller has checked `available`."""
        free = self.blocks - self._private - len(self._shared) - len(self._idle)
        assert n <= free + len(self._idle)
        for _ in range(n - free):
            self._idle.popitem(last=False)
            self.evictions += 1
        self._private += n

    def publish(self, key: int) -> bool:
        """A private block is full: findable by its key from now on. False if another holds the same
        tokens already; then it stays private."""
        if key in self._shared or key in self._idle:
            return False
        self._private -= 1
        self._shared[key] = 1
        return True

    def release(self, keys: Sequence[int], private: int) -> None:
        """Gives back shared blocks (in prompt order) and private ones."""
        shared, idle = self._shared, self._idle
        self._private -= private
        for key in reversed(keys):
            holders = shared[key] - 1
            if holders:
                shared[key] = holders
            else:
                del shared[key]
                idle[key] = None

    def clear(self) -> None:
        """Forgets all idle blocks."""
        self._idle.clear()
