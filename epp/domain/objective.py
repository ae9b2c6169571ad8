"""What a request may name to say how important it is."""

from __future__ import annotations

from msgspec import Struct


class Objective(Struct, frozen=True, gc=False):
    """One InferenceObjective."""

    name: str
    priority: int = 0
    """Higher is more important; below 0 the request may be shed."""
