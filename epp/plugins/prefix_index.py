"""Which endpoint has which prompt blocks, as we believe: one tree for all endpoints, one LRU per endpoint.

The holders of a segment of the tree are a bitmask, and who holds a block holds those above it: so a prompt
is followed down the tree through all endpoints at once, and who drops out on the way is in the difference
of two masks. An endpoint that leaves is masked out at once and cleaned away little by little.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

import numpy as np

from epp.domain.snapshot import Floats
from epp.parsing.blocks import HASH_BYTES
from epp.plugins.prefix_segments import Holder, Segment, parting
from epp.plugins.prefix_tree import PrefixTree

MAX_ENTRIES = 4_000_000
"""(block, endpoint) pairs in all; shared evenly when endpoints would need more. A pair takes 8 to 16 bytes
in long chains, about 200 where every chain has a block of its own."""
_FEW = 8
"""Up to so many endpoints are written one by one; more are unpacked from the mask at once."""
_SPARE = 16
"""Blocks of departed endpoints that are cleaned away with every prompt learned, besides two for each of its
own: so what they left shrinks faster than the rest grows."""


class PrefixIndex:
    """Written and read by the one event loop. Chains are bytes of `HASH_BYTES` a block, roots mixed in."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._tree = PrefixTree()
        self._holders: dict[int, Holder] = {}
        self._leaving: deque[Holder] = deque()
        self._left = 0
        """Mask of those."""
        self._free: list[int] = []
        self._slots = np.zeros(0, dtype=np.intp)
        """By holder id. Ids are few and dense where slots are not; a slot gets a new one after `forget`."""
        self._max_entries = max_entries
        self._nowhere = Segment(b"", 0)
        self.width = 0
        """One more than the highest slot that was ever learned."""

    def __del__(self) -> None:
        """Stretches point up, segments down, and the collector, which need not walk millions of them, knows
        neither: so the circles are opened here."""
        nowhere = self._nowhere
        for holder in (*self._holders.values(), *self._leaving):
            for stretch in holder.line:
                stretch.above = nowhere

    @property
    def entries(self) -> int:
        """(block, endpoint) pairs."""
        return sum(holder.size for holder in self._holders.values())

    @property
    def blocks(self) -> int:
        """Different blocks, with those of departed endpoints that are not cleaned away yet."""
        return self._tree.blocks

    def sizes(self) -> dict[int, int]:
        """Blocks by slot."""
        return {slot: holder.size for slot, holder in self._holders.items()}

    def match(self, chain: bytes, lengths: Floats) -> None:
        """Add to lengths[slot] how many blocks of the chain, from its front and without a gap, it holds.

        `lengths` has at least `width` places.
        """
        above = self._tree.top
        at, end = 0, len(chain)
        held = 0
        while at < end and above.below is not None:
            here = above.below.get(chain[at : at + HASH_BYTES])
            if here is None:
                break
            if here.held != held:
                if at:
                    # Neighbouring segments mostly have the same holders: then nobody drops out.
                    self._credit(self._mask(held) ^ self._mask(here.held), at, lengths)
                held = here.held
            if not chain.startswith(here.hashes, at):
                at += parting(chain, at, here.hashes)
                break
            at += len(here.hashes)
            above = here
        if at:
            self._credit(held, at, lengths)

    def learn(self, slot: int, chain: bytes, capacity: int) -> None:
        """The endpoint of `slot` is going to have these blocks; what it had of them becomes recent.

        The tail of the chain is evicted before its head. Raises nothing; a chain longer than the capacity
        is cut.
        """
        holder = self._holders.get(slot)
        if holder is None:
            holder = self._admit(slot)
        capacity = max(1, min(capacity, self._max_entries // len(self._holders)))
        blocks = len(chain) // HASH_BYTES
        if chain:
            self._tree.use(holder, chain if blocks <= capacity else chain[: capacity * HASH_BYTES])
        over = holder.size - capacity
        if over > 0:
            # A capacity that shrank (a growing pool, a restarted engine) is reached over several calls.
            self._tree.drop_oldest(holder, min(over, 2 * blocks + 64))
        if self._leaving:
            self.sweep(2 * blocks + _SPARE)

    def forget(self, slot: int) -> None:
        """The slot is free; nothing of it counts any more."""
        holder = self._holders.pop(slot, None)
        if holder is not None:
            self._leaving.append(holder)
            self._left |= holder.bit

    def sweep(self, blocks: int) -> None:
        """Clean away so many blocks of departed endpoints."""
        while blocks > 0 and self._leaving:
            holder = self._leaving[0]
            before = holder.size
            self._tree.drop_oldest(holder, blocks)
            blocks -= before - holder.size
            if not holder.size:
                self._leaving.popleft()
                self._left ^= holder.bit
                heappush(self._free, holder.id)

    def _admit(self, slot: int) -> Holder:
        bits = self._tree.bits
        if self._free:
            number = heappop(self._free)
        else:
            number = len(bits)
            bits.append(1 << number)
            if number >= len(self._slots):
                self._slots = np.resize(self._slots, max(16, 2 * number))
        self._slots[number] = slot
        self.width = max(self.width, slot + 1)
        holder = self._holders[slot] = Holder(number, slot)
        return holder

    def _mask(self, held: int) -> int:
        return held if held >= 0 else self._tree.bits[~held]

    def _credit(self, held: int, size: int, lengths: Floats) -> None:
        """Add the blocks of `size` bytes for every one of the mask."""
        length = size // HASH_BYTES
        slots = self._slots
        if held < 0:
            if not self._left or not self._tree.bits[~held] & self._left:
                lengths[slots[~held]] += length
            return
        if self._left:
            held &= ~self._left
        if held.bit_count() <= _FEW:
            while held:
                low = held & -held
                lengths[slots[low.bit_length() - 1]] += length
                held ^= low
            return
        raw = np.frombuffer(held.to_bytes((held.bit_length() + 7) // 8, "little"), dtype=np.uint8)
        lengths[slots[np.flatnonzero(np.unpackbits(raw, bitorder="little"))]] += length
