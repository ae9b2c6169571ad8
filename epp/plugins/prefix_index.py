"""Which endpoint has which prompt block, as we believe: one table for all endpoints, one LRU per endpoint.

A block's holders are a bitmask over endpoint slots, so one `&` per block follows a prompt through all
endpoints at once. Most blocks (the private part of a conversation) have one holder; it is kept as the
complement of its slot, a small negative number, because a mask of 10,000 bits would take 1.3 KB.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from epp.domain.snapshot import Floats

MAX_ENTRIES = 4_000_000
"""(block, endpoint) pairs in all, at about 250 bytes each; shared evenly when endpoints would need more."""
_FEW = 8
"""Up to so many endpoints are written one by one; more are unpacked from the mask at once."""


class PrefixIndex:
    """Written and read by the one event loop. Keys are chained 64-bit block hashes with the root mixed in."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._holders: dict[int, int] = {}
        self._lru: dict[int, OrderedDict[int, None]] = {}
        self._bits: list[int] = []
        self._max_entries = max_entries

    @property
    def entries(self) -> int:
        """(block, endpoint) pairs."""
        return sum(map(len, self._lru.values()))

    @property
    def blocks(self) -> int:
        """Different blocks."""
        return len(self._holders)

    def sizes(self) -> dict[int, int]:
        """Blocks by slot."""
        return {slot: len(blocks) for slot, blocks in self._lru.items()}

    def match(self, chain: Sequence[int], lengths: Floats) -> None:
        """Add to lengths[slot] how many blocks of the chain, from its front and without a gap, it holds.

        `lengths` must reach over every slot that was ever learned and not forgotten.
        """
        bits = self._bits
        alive = -1  # every slot, until the first block has been looked up
        matched = 0
        last: int | None = 0
        for held in map(self._holders.get, chain):
            if held != last:
                # Neighbouring blocks mostly have the same holders: then nobody drops out.
                if held is None:
                    break
                last = held
                still = alive & (held if held > 0 else bits[~held])
                if still != alive:
                    if matched:
                        _credit(alive ^ still, matched, lengths)
                    alive = still
                    if not alive:
                        return
            matched += 1
        if matched:
            _credit(alive, matched, lengths)

    def learn(self, slot: int, chain: Sequence[int], capacity: int) -> None:
        """The endpoint of `slot` is going to have these blocks; what it had of them becomes recent.

        The head of the chain is made the most recent, so that its tail is evicted first. Raises nothing;
        a chain longer than the capacity is cut.
        """
        lru = self._lru.get(slot)
        if lru is None:
            lru = self._lru[slot] = OrderedDict()
            while len(self._bits) <= slot:
                self._bits.append(1 << len(self._bits))
        capacity = max(1, min(capacity, self._max_entries // len(self._lru)))
        holders = self._holders
        bit = self._bits[slot]
        refresh = lru.move_to_end
        for key in reversed(chain[:capacity]):
            if key in lru:
                refresh(key)
                continue
            lru[key] = None
            held = holders.get(key)
            if held is None:
                holders[key] = ~slot
            elif held < 0:
                holders[key] = self._bits[~held] | bit
            else:
                holders[key] = held | bit
        over = len(lru) - capacity
        if over > 0:
            # A capacity that shrank (a growing pool, a restarted engine) is reached over several calls.
            for _ in range(min(over, 2 * len(chain) + 64)):
                self._unhold(slot, lru.popitem(last=False)[0])

    def forget(self, slot: int) -> None:
        """The slot is free; nothing of it stays."""
        for key in self._lru.pop(slot, ()):
            self._unhold(slot, key)

    def _unhold(self, slot: int, key: int) -> None:
        held = self._holders[key]
        if held < 0:
            del self._holders[key]
            return
        rest = held ^ self._bits[slot]
        # With one holder left the mask becomes the short form again.
        self._holders[key] = rest if rest & (rest - 1) else ~(rest.bit_length() - 1)


def _credit(mask: int, length: int, lengths: Floats) -> None:
    """Add `length` for every slot of the mask."""
    if mask.bit_count() <= _FEW:
        while mask:
            low = mask & -mask
            lengths[low.bit_length() - 1] += length
            mask ^= low
        return
    raw = np.frombuffer(mask.to_bytes((mask.bit_length() + 7) // 8, "little"), dtype=np.uint8)
    slots = np.flatnonzero(np.unpackbits(raw, bitorder="little"))
    lengths[slots] += length
