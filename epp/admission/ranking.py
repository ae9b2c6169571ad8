"""Flows in ascending order of a key that changes: a heap in which only a flow's last key counts."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic

from epp.admission.flow import Flow
from epp.admission.queue import K

_SPARE = 16


class Ranking(Generic[K]):
    """Every operation costs O(log n) amortised. Of equal keys the one given first wins."""

    __slots__ = ("_heap", "_next", "_valid")

    def __init__(self) -> None:
        self._heap: list[tuple[K, int, Flow]] = []
        self._valid: dict[Flow, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._valid)

    def __contains__(self, flow: Flow) -> bool:
        return flow in self._valid

    def set(self, flow: Flow, key: K) -> None:
        """Add the flow, or give it another key."""
        self._next += 1
        self._valid[flow] = self._next
        heappush(self._heap, (key, self._next, flow))
        self._tidy()

    def discard(self, flow: Flow) -> None:
        if self._valid.pop(flow, None) is not None:
            self._tidy()

    def first(self) -> tuple[K, Flow] | None:
        """The least key and its flow; None when there is none."""
        heap, valid = self._heap, self._valid
        while heap:
            key, stamp, flow = heap[0]
            if valid.get(flow) == stamp:
                return key, flow
            heappop(heap)
        return None

    def _tidy(self) -> None:
        heap, valid = self._heap, self._valid
        if len(heap) > 2 * len(valid) + _SPARE:
            heap[:] = [item for item in heap if valid.get(item[2]) == item[1]]
            heapify(heap)
