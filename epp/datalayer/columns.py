"""Growable rows of float64 cells by slot: cheap to change one cell, cheap to gather many.

Measured: one cell of an `array` changes in 0.06 us, of a numpy array in 0.13; a gather through the numpy view
on the same memory costs 0.14 us at 8 slots and 7 us at 10,000 (a list: 0.9 and 520).
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray


class Columns:
    """`rows` signals for `capacity` slots. Cell of signal r and slot s: `cells[r * capacity + s]`."""

    __slots__ = ("capacity", "cells", "fill", "rows", "view")

    def __init__(self, rows: int, capacity: int = 64, *, fill: float = 0.0) -> None:
        self.rows = rows
        self.fill = fill
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.capacity = capacity
        self.cells = array("d", [self.fill]) * (self.rows * capacity)
        self.view: NDArray[np.float64] = np.frombuffer(self.cells).reshape(self.rows, capacity)
        """Shape (rows, capacity), float64, on the memory of `cells`."""

    def grow(self, slot: int) -> None:
        """Make room for `slot`. Views taken before keep the old memory: take `view` anew each time."""
        if slot < self.capacity:
            return
        old = self.view
        self._allocate(max(slot + 1, 2 * self.capacity))
        self.view[:, : old.shape[1]] = old
