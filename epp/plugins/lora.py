"""Prefer endpoints that have the request's LoRA adapter loaded, or room to load it."""

from __future__ import annotations

import numpy as np

from epp.domain.snapshot import Floats, Ints, Snapshot
from epp.scheduling.contract import BuildContext, Cycle, NoParameters, PluginType

_ACTIVE, _ROOM, _WAITING = 1.0, 0.8, 0.6


class LoraAffinity:
    """1 where the adapter runs, else 0.8 where one more fits, else 0.6 where it waits for room, else 0."""

    def __init__(self) -> None:
        self._running: tuple[frozenset[str], ...] | None = None
        self._queued: tuple[frozenset[str], ...] | None = None
        self._loaded = np.zeros(0)
        self._active: dict[str, list[int]] = {}
        self._waiting: dict[str, list[int]] = {}

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        snapshot = cycle.snapshot
        if snapshot.lora_running is not self._running or snapshot.lora_waiting is not self._queued:
            self._look_at(snapshot)
        column = np.where(self._loaded < snapshot.lora_max, _ROOM, 0.0)
        name = cycle.request.target_model
        active, waiting = self._active.get(name), self._waiting.get(name)
        if waiting:
            column[waiting] = np.maximum(column[waiting], _WAITING)
        if active:
            column[active] = _ACTIVE
        return column[rows]

    def _look_at(self, snapshot: Snapshot) -> None:
        """Turn the sets around whenever they change, so that a decision looks up one name."""
        self._active, self._waiting = {}, {}
        loaded = np.zeros(len(snapshot))
        for table, column in ((self._active, snapshot.lora_running), (self._waiting, snapshot.lora_waiting)):
            for row, names in enumerate(column):
                if names:
                    loaded[row] += len(names)
                    for name in names:
                        table.setdefault(name, []).append(row)
        self._loaded = loaded
        self._running, self._queued = snapshot.lora_running, snapshot.lora_waiting


def _build(parameters: NoParameters, context: BuildContext) -> LoraAffinity:
    return LoraAffinity()


PLUGINS = (
    PluginType(
        "lora-affinity-scorer", NoParameters, _build, "prefers endpoints with the LoRA adapter loaded"
    ),
)
