"""Whose requests leave a full queue to make room for another's.

A queue that is full because one flow fills it would refuse all others at the door, however fair the order
inside; and one that is full of unimportant work would refuse what is important. So the newest requests of
lower priority, or of the flow that holds most, can be sent away as if they had come too late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from epp.admission.flow import Flow
from epp.admission.limits import Held
from epp.admission.registry import Registry
from epp.admission.ticket import Ticket

_MOST_VICTIMS = 64
"""For one request, which then has a very long body."""


def victims(
    registry: Registry, in_all: Held, priority: int, fairness_id: str, size_bytes: int
) -> list[Ticket[Any]]:
    """Where the request's band has room but all together have not: of the lowest band below it. Else of the
    flow that holds most of its band, if that would still hold no less than this one. They are of one flow,
    its newest; empty where nobody should leave."""
    band = registry.band(priority)
    full = [held for held in (band.held, in_all) if not held.fits(size_bytes)]
    if not full:
        return []
    if band.held not in full:
        lower = (one for one in reversed(registry.bands) if one.priority < band.priority)
        source = next((one for one in lower if one.held.requests), None)
        if source is not None:
            largest = source.shares.largest()
            return _enough(largest, full, size_bytes) if largest is not None else []
    largest, own = band.shares.largest(), registry.known_flow(band, fairness_id)
    if largest is None or largest is own:
        return []
    chosen = _enough(largest, full, size_bytes)
    left = band.shares.of(largest, -len(chosen), -sum(ticket.size_bytes for ticket in chosen))
    wanted = band.shares.of(own or Flow(fairness_id, band.priority, {}), 1, size_bytes)
    return chosen if left >= wanted else []


def _enough(flow: Flow, full: Sequence[Held], size_bytes: int) -> list[Ticket[Any]]:
    """The newest of the flow, as many as must leave so that one more fits; none if that takes too many."""
    chosen: list[Ticket[Any]] = []
    freed = 0
    for ticket in flow.newest():
        chosen.append(ticket)
        freed += ticket.size_bytes
        if all(held.fits(size_bytes, len(chosen), freed) for held in full):
            return chosen
        if len(chosen) == _MOST_VICTIMS:
            break
    return []
