"""What the prefix tree is made of: segments, stretches, holders, and how they are cut and linked."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from epp.parsing.blocks import HASH_BYTES


class Segment(Struct, gc=False, eq=False):
    """A run of blocks with the same holders and nothing that branches off in between."""

    hashes: bytes
    held: int
    """Bitmask over holder ids; the complement ~id of the only one, since a mask of 10,000 takes 1.3 KB."""
    below: dict[bytes, Segment] | None = None
    """What follows, by the first hash."""
    starts: Stretch | dict[int, Stretch] | None = None
    """The stretches that begin here, by holder id."""


class Stretch(Struct, gc=False, eq=False):
    """Blocks of one holder with one recency. It begins with a segment and ends with one."""

    hashes: bytes
    """Empty when later uses have taken all."""
    holder: int
    above: Segment
    """Whose end it begins at. Splitting and joining keep the object that has a segment's end."""


class Holder:
    """What the tree keeps for one endpoint."""

    __slots__ = ("alone", "bit", "dead", "id", "line", "size", "slot")

    def __init__(self, number: int, slot: int) -> None:
        self.id = number
        self.slot = slot
        self.bit = 1 << number
        self.alone = ~number
        """As `Segment.held`."""
        self.line: deque[Stretch] = deque()
        """Oldest first; used-up ones wait until they come to the front."""
        self.dead = 0
        self.size = 0
        """Blocks."""


def parting(chain: bytes, at: int, hashes: bytes) -> int:
    """For how many bytes, in whole hashes, chain[at:] and `hashes` agree."""
    low, high = 0, min(len(hashes), len(chain) - at) // HASH_BYTES
    if chain.startswith(hashes[: high * HASH_BYTES], at):
        return high * HASH_BYTES
    # They agree up to low and differ somewhere before high.
    while high - low > 1:
        middle = (low + high) // 2
        near, far = low * HASH_BYTES, middle * HASH_BYTES
        if chain[at + near : at + far] == hashes[near:far]:
            low = middle
        else:
            high = middle
    return low * HASH_BYTES


def split(above: Segment, key: bytes, segment: Segment, size: int) -> Segment:
    """A new segment for the first `size` bytes; the old object keeps the end, for stretches point to it."""
    hashes = segment.hashes
    front = Segment(hashes[:size], segment.held, {hashes[size : size + HASH_BYTES]: segment}, segment.starts)
    segment.hashes = hashes[size:]
    segment.starts = None
    put(above, key, front)
    return front


def put(above: Segment, key: bytes, segment: Segment) -> None:
    """Hang it below, or in place of what hangs there by that key."""
    if above.below is None:
        above.below = {key: segment}
    else:
        above.below[key] = segment


def remove(above: Segment, key: bytes, top: Segment) -> None:
    """Take away what hangs there, with all below it. Only the top keeps an empty table."""
    assert above.below is not None
    del above.below[key]
    if not above.below and above is not top:
        above.below = None


def start_of(segment: Segment, number: int) -> Stretch | None:
    """The stretch of that holder that begins here."""
    starts = segment.starts
    if isinstance(starts, dict):
        return starts.get(number)
    return starts if starts is not None and starts.holder == number else None


def add_start(segment: Segment, stretch: Stretch) -> None:
    starts = segment.starts
    if isinstance(starts, dict):
        starts[stretch.holder] = stretch
    elif starts is None or starts.holder == stretch.holder:
        segment.starts = stretch
    else:
        segment.starts = {starts.holder: starts, stretch.holder: stretch}


def remove_start(segment: Segment, number: int) -> None:
    starts = segment.starts
    if isinstance(starts, dict):
        del starts[number]
        if len(starts) == 1:
            [segment.starts] = starts.values()
    else:
        segment.starts = None
