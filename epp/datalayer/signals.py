"""What endpoints reported, in columns by slot, and the cheapest way from there to a snapshot's columns.

What changes at every scrape is copied at every build; what hardly ever changes (block sizes, adapters,
models) is kept from the last build until it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from epp.datalayer.columns import Columns
from epp.datalayer.load import Load
from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import NEVER, Bools, Ints, Snapshot

_WAITING, _RUNNING, _KV_USED, _SCRAPED_AT = range(4)
_BLOCK_SIZE, _NUM_BLOCKS, _LORA_MAX = range(3)
_NO_NAMES: frozenset[str] = frozenset()
_NO_LORA = (_NO_NAMES, _NO_NAMES)


class Signals:
    """Writers by slot; `rows(...)` fixes which slots are the rows, `snapshot(...)` reads them."""

    def __init__(self) -> None:
        self._loads = Columns(4)
        self._shapes = Columns(3)
        self._lora: dict[int, tuple[frozenset[str], frozenset[str]]] = {}
        self._models: dict[int, frozenset[str]] = {}
        self._slots: Ints = np.zeros(0, dtype=np.intp)
        self._dense = True
        self._shape_rows: NDArray[np.intp] = np.zeros((3, 0), dtype=np.intp)
        self._lora_rows: tuple[tuple[frozenset[str], ...], tuple[frozenset[str], ...]] = ((), ())
        self._model_rows: tuple[frozenset[str] | None, ...] = ()
        self._shapes_changed = self._lora_changed = self._models_changed = True
        self.models_version = 0

    def clear(self, slot: int) -> None:
        """Nothing is known of the slot's endpoint yet."""
        self._loads.grow(slot)
        self._shapes.grow(slot)
        self._loads.view[:, slot] = (0.0, 0.0, 0.0, NEVER)
        self._shapes.view[:, slot] = 0.0
        self._lora.pop(slot, None)
        if self._models.pop(slot, None) is not None:
            self.models_version += 1

    def rows(self, slots: Ints) -> None:
        """The pool changed: these slots, ascending, are the rows from now on."""
        slots.flags.writeable = False
        self._slots = slots
        self._dense = len(slots) == 0 or int(slots[-1]) == len(slots) - 1
        self._shapes_changed = self._lora_changed = self._models_changed = True
        if self._models:
            self.models_version += 1

    def report(self, slot: int, load: Load, now: float) -> None:
        """Keep what was reported. What was not keeps its last value."""
        cells, step = self._loads.cells, self._loads.capacity
        if load.waiting is not None:
            cells[_WAITING * step + slot] = load.waiting
        if load.running is not None:
            cells[_RUNNING * step + slot] = load.running
        if load.kv_used is not None:
            cells[_KV_USED * step + slot] = load.kv_used
        if load.fresh:
            cells[_SCRAPED_AT * step + slot] = now
        self._shape(_BLOCK_SIZE, slot, load.block_size)
        self._shape(_NUM_BLOCKS, slot, load.num_blocks)
        self._shape(_LORA_MAX, slot, load.lora_max)
        if load.lora_running is not None or load.lora_waiting is not None:
            self._report_lora(slot, (load.lora_running or _NO_NAMES, load.lora_waiting or _NO_NAMES))

    def set_models(self, slot: int, names: frozenset[str] | None) -> bool:
        """Whether that is news."""
        if self._models.get(slot) == names:
            return False
        if names is None:
            del self._models[slot]
        else:
            self._models[slot] = names
        self._models_changed = True
        self.models_version += 1
        return True

    def every_model(self) -> frozenset[str]:
        here = set(self._slots.tolist())
        return frozenset().union(*(names for slot, names in self._models.items() if slot in here))

    def snapshot(
        self, version: int, at: float, endpoints: tuple[Endpoint, ...], available: Bools, stale_after_s: float
    ) -> Snapshot:
        """A frozen copy of the rows."""
        loads = self._gather(self._loads)
        if self._shapes_changed:
            self._shape_rows = _frozen(self._gather(self._shapes).astype(np.intp))
            self._shapes_changed = False
        if self._lora_changed:
            pairs = [self._lora.get(slot, _NO_LORA) for slot in self._slots.tolist()]
            self._lora_rows = (tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
            self._lora_changed = False
        if self._models_changed:
            self._model_rows = tuple(self._models.get(slot) for slot in self._slots.tolist())
            self._models_changed = False
        loads.flags.writeable = False
        waiting, running, kv_used, scraped_at = loads
        block_size, num_blocks, lora_max = self._shape_rows
        return Snapshot(
            version, at, endpoints, self._slots, waiting, running, kv_used, block_size, num_blocks,
            scraped_at, lora_max, *self._lora_rows, self._model_rows, available, stale_after_s,
        )  # fmt: skip

    def _gather(self, columns: Columns) -> NDArray[np.float64]:
        if self._dense:
            return columns.view[:, : len(self._slots)].copy()
        return columns.view.take(self._slots, axis=1)

    def _shape(self, signal: int, slot: int, value: int | None) -> None:
        index = signal * self._shapes.capacity + slot
        if value is not None and self._shapes.cells[index] != value:
            self._shapes.cells[index] = value
            self._shapes_changed = True

    def _report_lora(self, slot: int, lora: tuple[frozenset[str], frozenset[str]]) -> None:
        if self._lora.get(slot, _NO_LORA) == lora:
            return
        self._lora[slot] = lora
        self._lora_changed = True
        # An adapter that runs is served, though it was loaded after we last asked for the list.
        known = self._models.get(slot)
        if known is not None and not (lora[0] | lora[1]) <= known:
            self._models[slot] = known | lora[0] | lora[1]
            self._models_changed = True
            self.models_version += 1


def _frozen(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    rows.flags.writeable = False
    return rows


def ascending(slots: Sequence[int]) -> Ints:
    """Slots as a column, sorted."""
    return np.asarray(sorted(slots), dtype=np.intp)
