"""Chains for tests of the prefix index, and what must hold inside of it after every step."""

from __future__ import annotations

from struct import pack, unpack

from epp.plugins.prefix_index import PrefixIndex
from epp.plugins.prefix_segments import Holder, Segment, Stretch


def blocks(*hashes: int) -> bytes:
    """A chain with these hashes."""
    return pack(f"<{len(hashes)}Q", *hashes)


def assert_sound(index: PrefixIndex) -> None:
    """Segments partition the tree, stretches partition what each holder has, masks shrink going down."""
    tree = index._tree
    holders = [*index._holders.values(), *index._leaving]
    by_id = {holder.id: holder for holder in holders}
    assert len(by_id) == len(holders)
    assert index._left == sum(holder.bit for holder in index._leaving)
    covered: dict[int, int] = dict.fromkeys(by_id, 0)
    seen: set[int] = set()
    total = 0
    todo: list[tuple[Segment, Segment]] = [(tree.top, one) for one in (tree.top.below or {}).values()]
    while todo:
        above, segment = todo.pop()
        assert segment.hashes
        assert len(segment.hashes) % 8 == 0
        assert above.below is not None
        assert above.below[segment.hashes[:8]] is segment
        mask = index._mask(segment.held)
        assert mask > 0
        assert (mask.bit_count() == 1) == (segment.held < 0), "the short form, and only for one"
        if above is not tree.top:
            assert mask & ~index._mask(above.held) == 0
        total += len(segment.hashes) // 8
        for stretch in _starts(segment):
            assert stretch.above is above
            assert stretch.hashes
            assert id(stretch) not in seen
            seen.add(id(stretch))
            covered[stretch.holder] += _walk(index, stretch, by_id[stretch.holder])
        assert segment.below is None or segment.below
        todo.extend((segment, one) for one in (segment.below or {}).values())
    assert total == tree.blocks
    for holder in holders:
        alive = [stretch for stretch in holder.line if stretch.hashes]
        assert {id(stretch) for stretch in alive} <= seen
        assert holder.dead == len(holder.line) - len(alive)
        assert holder.size == sum(len(stretch.hashes) for stretch in alive) // 8 == covered[holder.id]
        assert holder.size == _held(tree.top, index, holder)
    assert len(seen) == sum(1 for holder in holders for stretch in holder.line if stretch.hashes)


def _starts(segment: Segment) -> list[Stretch]:
    starts = segment.starts
    if starts is None:
        return []
    if isinstance(starts, dict):
        assert len(starts) > 1
        assert all(number == stretch.holder for number, stretch in starts.items())
        return list(starts.values())
    return [starts]


def _walk(index: PrefixIndex, stretch: Stretch, holder: Holder) -> int:
    """The stretch ends where a segment ends, and its holder has all of it."""
    above, at = stretch.above, 0
    while at < len(stretch.hashes):
        assert above.below is not None
        above = above.below[stretch.hashes[at : at + 8]]
        assert index._mask(above.held) & holder.bit
        assert stretch.hashes.startswith(above.hashes, at), unpack(
            f"<{len(stretch.hashes) // 8}Q", stretch.hashes
        )
        at += len(above.hashes)
    return at // 8


def _held(top: Segment, index: PrefixIndex, holder: Holder) -> int:
    found, todo = 0, list((top.below or {}).values())
    while todo:
        segment = todo.pop()
        if index._mask(segment.held) & holder.bit:
            found += len(segment.hashes) // 8
            todo.extend((segment.below or {}).values())
    return found
