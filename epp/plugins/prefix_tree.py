"""Chains of block hashes as a radix tree whose segments know who holds them.

A holder has a set of chains, each from its front to some depth, so who holds a block holds all above it.
What it has falls into stretches: the blocks that one and the same use touched last. A use makes one stretch
of its whole chain and takes it from the fronts of older ones, so a chain that is known or grows costs a few
steps, not one a block, and stretches in the order of their making, cut from their ends, are exactly an LRU
of blocks in which the tail of a chain is older than its head.

Segments begin wherever chains part, holders differ, or a stretch begins; they are joined again when a use
passes and finds that nothing tells them apart any more.
"""

from __future__ import annotations

from collections import deque

from epp.parsing.blocks import HASH_BYTES
from epp.plugins.prefix_segments import (
    Holder,
    Segment,
    Stretch,
    add_start,
    parting,
    put,
    remove,
    remove_start,
    split,
    start_of,
)

_DEAD = 64
"""So many used-up stretches stay in line before the line is rewritten, if they are half of it."""


class PrefixTree:
    """Writes the tree. `PrefixIndex` reads it."""

    def __init__(self) -> None:
        self.top = Segment(b"", 0, {})
        self.blocks = 0
        """Different ones."""
        self.bits: list[int] = []
        """The mask of one holder, by its id."""

    def use(self, holder: Holder, chain: bytes) -> None:
        """The holder has the whole chain now, and this is its most recent stretch."""
        top, number = self.top, holder.id
        assert top.below is not None
        first = top.below.get(chain[:HASH_BYTES])
        if first is not None:
            old = start_of(first, number)
            if old is not None and old.hashes == chain:
                fresh = Stretch(old.hashes, number, top)
                add_start(first, fresh)
                old.hashes = b""
                self._line_up(holder, fresh, 1)
                return
        dead = self._take(holder, chain)
        first = top.below[chain[:HASH_BYTES]]
        whole = first.hashes
        fresh = Stretch(whole if len(whole) == len(chain) else chain, number, top)
        add_start(first, fresh)
        self._line_up(holder, fresh, dead)

    def drop_oldest(self, holder: Holder, blocks: int) -> None:
        """Forget so many blocks that the holder used longest ago."""
        line, alone, top = holder.line, holder.alone, self.top
        left = blocks * HASH_BYTES
        gone = alone_gone = 0
        while left > 0 and line:
            oldest = line[0]
            hashes = oldest.hashes
            size = len(hashes)
            if size > left:
                self._cut(holder, oldest, size - left)
                gone += left
                break
            line.popleft()
            if not size:
                holder.dead -= 1
                continue
            above, key = oldest.above, hashes[:HASH_BYTES]
            assert above.below is not None
            if above.below[key].held == alone:  # mostly: see _cut
                remove(above, key, top)
                oldest.hashes = b""
                alone_gone += size
            else:
                self._cut(holder, oldest, 0)
            gone += size
            left -= size
        holder.size -= gone // HASH_BYTES
        self.blocks -= alone_gone // HASH_BYTES

    def _line_up(self, holder: Holder, fresh: Stretch, dead: int) -> None:
        holder.line.append(fresh)
        holder.dead += dead
        if holder.dead > _DEAD and 2 * holder.dead > len(holder.line):
            holder.line = deque(stretch for stretch in holder.line if stretch.hashes)
            holder.dead = 0

    def _take(self, holder: Holder, chain: bytes) -> int:
        """Walk the chain: add what is missing, take it from older stretches, join what can be joined.

        Answers how many stretches were used up.
        """
        top, number, end = self.top, holder.id, len(chain)
        grand = above = top
        grand_key = b""
        at = begin = added = dead = 0
        joined = False  # the bytes of `above`, which begins at `begin`, are still to be put together
        was = now = 0
        rest: Stretch | None = None  # what is left of the one older stretch that parts from the chain
        rest_at = -1
        while at < end:
            key = chain[at : at + HASH_BYTES]
            here = above.below.get(key) if above.below is not None else None
            if here is None:
                added += end - at
                self.blocks += (end - at) // HASH_BYTES
                if above is not top and above.below is None and above.held == holder.alone:
                    joined, at = True, end
                else:
                    tail = chain[at:]
                    put(above, tail[:HASH_BYTES], Segment(tail, holder.alone))  # one object if one hash
                break
            if not chain.startswith(here.hashes, at):
                here = split(above, key, here, parting(chain, at, here.hashes))
            size = len(here.hashes)
            if here.starts is not None and (old := start_of(here, number)) is not None:
                remove_start(here, number)
                if chain.startswith(old.hashes, at):
                    old.hashes = b""
                    dead += 1
                else:
                    common = parting(chain, at, old.hashes)
                    old.hashes = old.hashes[common:]
                    rest, rest_at = old, at + common
            if here.held != was:
                was = here.held
                now = self._with(was, holder)
            if now != was:
                here.held = now
                added += size
            if (
                here.starts is None
                and above is not top
                and above.held == now
                and above.below is not None
                and len(above.below) == 1
            ):
                # Nothing tells the two apart. The object with the end stays: stretches below point to it.
                here.starts = above.starts
                put(grand, grand_key, here)
                joined = True
            else:
                if joined:
                    above.hashes = chain[begin:at]
                    joined = False
                grand, grand_key, begin = above, key, at
            above = here
            at += size
            if rest is not None and rest_at == at:
                assert here.below is not None
                after = here.below[rest.hashes[:HASH_BYTES]]
                rest.above = here
                if len(after.hashes) == len(rest.hashes):
                    rest.hashes = after.hashes  # the same bytes, kept once
                add_start(after, rest)
                rest = None
        if joined:
            above.hashes = chain[begin:at]
        holder.size += added // HASH_BYTES
        return dead

    def _cut(self, holder: Holder, oldest: Stretch, keep: int) -> None:
        """Of the holder's oldest stretch only the first `keep` bytes stay."""
        hashes, above, alone = oldest.hashes, oldest.above, holder.alone
        assert above.below is not None
        key = hashes[:HASH_BYTES]
        if keep:
            oldest.hashes = hashes[:keep]
        else:
            oldest.hashes = b""
            remove_start(above.below[key], holder.id)
        at, end = 0, len(hashes)
        while at < end:
            assert above.below is not None
            here = above.below[key]
            size = len(here.hashes)
            if at + size > keep:
                if here.held == alone:
                    # All that is below it is the rest of this stretch: what else the holder has there would
                    # be older, and others hold nothing below what they do not hold.
                    self.blocks -= (end - max(at, keep)) // HASH_BYTES
                    if at < keep:
                        here.hashes = oldest.hashes if at == 0 else here.hashes[: keep - at]
                        here.below = None
                    else:
                        remove(above, key, self.top)
                    return
                if at < keep:
                    here = split(above, key, here, keep - at)
                    size = keep - at
                else:
                    left = here.held ^ holder.bit
                    # With one holder left the mask becomes the short form again.
                    here.held = left if left & (left - 1) else ~(left.bit_length() - 1)
            at += size
            above = here
            key = hashes[at : at + HASH_BYTES]

    def _with(self, held: int, holder: Holder) -> int:
        if held < 0:
            return held if held == holder.alone else self.bits[~held] | holder.bit
        return held if held & holder.bit else held | holder.bit
