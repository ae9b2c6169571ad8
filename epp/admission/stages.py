"""Saturation of a pool whose prefill and decode have endpoints of their own: that of the fuller stage.

The label `llm-d.ai/role` tells the stages apart; an endpoint without it decodes, and one that does both
counts in both. Where all are alike, as in most pools, this is the detector itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from epp.admission.room import Room
from epp.admission.saturation import SaturationDetector, room_of
from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import Bools, Ints, Snapshot
from epp.domain.views import InflightView

_ROLE = "llm-d.ai/role"
_BOTH = frozenset({"prefill-decode", "both", "encode-prefill-decode"})
STAGES: Mapping[str, frozenset[str]] = {
    "prefill": _BOTH | {"prefill", "encode-prefill"},
    "decode": _BOTH | {"decode", "encode-decode", ""},
}
"""Roles of each stage, by the stage's name in metrics."""


class _Fullest:
    """Several rooms that every request fills all."""

    __slots__ = ("_rooms",)

    def __init__(self, rooms: Sequence[Room]) -> None:
        self._rooms = rooms

    def saturation(self) -> float:
        return max(room.saturation() for room in self._rooms)

    def take(self, requests: int, tokens: int) -> None:
        for room in self._rooms:
            room.take(requests, tokens)


class StagedDetector:
    """A SaturationDetector over another. Keeps which endpoint is of which stage while the pool stays."""

    def __init__(self, detector: SaturationDetector) -> None:
        self.detector = detector
        self._endpoints: tuple[Endpoint, ...] | None = None
        self._members: dict[str, Bools] = {}

    def by_stage(
        self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float
    ) -> Mapping[str, float]:
        """Of each stage that has endpoints."""
        stages = self._split(snapshot, rows)
        return {
            name: self.detector.saturation(snapshot, members, inflight, now)
            for name, members in stages.items()
        }

    def saturation(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> float:
        return max(self.by_stage(snapshot, rows, inflight, now).values(), default=1.0)

    def room(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> Room:
        stages = list(self._split(snapshot, rows).values()) or [rows[:0]]
        rooms = [room_of(self.detector, snapshot, members, inflight, now) for members in stages]
        return rooms[0] if len(rooms) == 1 else _Fullest(rooms)

    def _split(self, snapshot: Snapshot, rows: Ints) -> dict[str, Ints]:
        if snapshot.endpoints is not self._endpoints:
            roles = [endpoint.labels.get(_ROLE, "") for endpoint in snapshot.endpoints]
            self._members = {
                name: np.asarray([role in known for role in roles], dtype=np.bool_)
                for name, known in STAGES.items()
            }
            self._endpoints = snapshot.endpoints
        split = {name: rows[members[rows]] for name, members in self._members.items()}
        return {name: members for name, members in split.items() if len(members)}
