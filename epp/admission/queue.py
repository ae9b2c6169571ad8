"""A priority queue from which any ticket can vanish at any time.

Tickets stand in a dict that several queues share (by order, by deadline); each queue keeps a heap of keys and
numbers only. A ticket taken out of the dict is gone from all of them: the rest of it, a key and a number, is
dropped when it comes to the top or when more than half of a heap is such rest. So every operation costs
O(log n) amortised and a ticket that left holds no memory of its own.
"""

from __future__ import annotations

from collections.abc import Container
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", float, tuple[float, float])

_SPARE = 16
"""Rest that is not worth clearing away."""


class Queue(Generic[K]):
    """Numbers in ascending order of key, then of number. `alive` says which of them still count."""

    __slots__ = ("_alive", "_heap", "_live")

    def __init__(self, alive: Container[int]) -> None:
        self._alive = alive
        self._heap: list[tuple[K, int]] = []
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def push(self, key: K, seq: int) -> None:
        heappush(self._heap, (key, seq))
        self._live += 1

    def first(self) -> tuple[K, int] | None:
        """The least key and its number; None when nothing is left."""
        heap, alive = self._heap, self._alive
        while heap:
            if heap[0][1] in alive:
                return heap[0]
            heappop(heap)
        return None

    def gone(self) -> None:
        """One of the numbers is not alive any more."""
        self._live -= 1
        heap = self._heap
        if len(heap) > 2 * self._live + _SPARE:
            alive = self._alive
            heap[:] = [item for item in heap if item[1] in alive]
            heapify(heap)
