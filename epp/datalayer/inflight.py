"""The ledger: what we have sent to each endpoint and not yet seen finished, counted as it happens.

One writer, the event loop. An entry belongs to a tenancy of a slot: when the endpoint leaves and the slot is
forgotten, entries of the old tenancy no longer touch the columns, so nothing can become negative or stay.
"""

from __future__ import annotations

import numpy as np

from epp.datalayer.columns import Columns
from epp.domain.snapshot import Floats, Ints

_REQUESTS, _PREFILL, _DECODE = range(3)


class Entry:
    """One request at one endpoint. Its methods may come in any order and any number; `end` counts once."""

    __slots__ = ("_decode", "_ledger", "_open", "_prefill", "_slot", "_tenancy")

    def __init__(
        self, ledger: Ledger, slot: int, tenancy: int, prefill_tokens: int, decode_tokens: int
    ) -> None:
        self._ledger = ledger
        self._slot = slot
        self._tenancy = tenancy
        self._prefill = prefill_tokens
        self._decode = decode_tokens
        self._open = True

    @property
    def slot(self) -> int:
        return self._slot

    @property
    def open(self) -> bool:
        return self._open

    def first_token(self) -> None:
        """The endpoint has begun to answer: the prompt is prefilled."""
        if self._open and self._prefill:
            self._ledger.add(self._slot, self._tenancy, 0, -self._prefill, 0)
            self._prefill = 0

    def generated(self, tokens: int) -> None:
        """So many more output tokens came back. What exceeds the expectation changes nothing."""
        done = min(max(0, tokens), self._decode)
        if self._open and done:
            self._ledger.add(self._slot, self._tenancy, 0, 0, -done)
            self._decode -= done

    def move(self, slot: int) -> None:
        """The gateway served the request at another endpoint than the one we chose."""
        if not self._open:
            return
        ledger = self._ledger
        tenancy = ledger.tenancy(slot)
        if slot == self._slot and tenancy == self._tenancy:
            return
        ledger.add(self._slot, self._tenancy, -1, -self._prefill, -self._decode)
        self._slot, self._tenancy = slot, tenancy
        ledger.add(slot, tenancy, 1, self._prefill, self._decode)

    def end(self) -> None:
        """The request is over, however it ended."""
        if self._open:
            self._open = False
            self._ledger.add(self._slot, self._tenancy, -1, -self._prefill, -self._decode)
            self._ledger.open_entries -= 1


class Ledger:
    """InflightView and EndpointObserver. Token counts are whole numbers, so sums in float64 are exact."""

    __slots__ = ("_columns", "_rows", "_tenancies", "open_entries")

    def __init__(self) -> None:
        self._columns = Columns(3)
        self._rows = tuple(self._columns.view)
        """One view a signal, on the memory of the columns."""
        self._tenancies = [0] * self._columns.capacity
        self.open_entries = 0
        """Entries that have not ended, wherever their endpoint went."""

    def start(self, slot: int, *, prefill_tokens: int = 0, decode_tokens: int = 0) -> Entry:
        """A request leaves for the endpoint of `slot`; `prefill_tokens` are its uncached prompt tokens."""
        prefill = int(prefill_tokens) if prefill_tokens > 0 else 0
        decode = int(decode_tokens) if decode_tokens > 0 else 0
        if slot >= len(self._tenancies):
            self._grow(slot)
        tenancy = self._tenancies[slot]
        self.add(slot, tenancy, 1, prefill, decode)
        self.open_entries += 1
        return Entry(self, slot, tenancy, prefill, decode)

    def tenancy(self, slot: int) -> int:
        """Which tenancy of the slot runs now; grows at every `forget`."""
        if slot >= len(self._tenancies):
            self._grow(slot)
        return self._tenancies[slot]

    def add(self, slot: int, tenancy: int, requests: int, prefill: int, decode: int) -> None:
        """Change the slot's sums, unless its tenancy is over."""
        if self._tenancies[slot] != tenancy:
            return
        columns = self._columns
        cells, step = columns.cells, columns.capacity
        if requests:
            cells[slot] += requests
        if prefill:
            cells[_PREFILL * step + slot] += prefill
        if decode:
            cells[_DECODE * step + slot] += decode

    def forget(self, slot: int) -> None:
        if slot >= len(self._tenancies):
            self._grow(slot)
        self._tenancies[slot] += 1
        self._columns.view[:, slot] = 0.0

    def requests(self, slots: Ints) -> Floats:
        return self._gather(_REQUESTS, slots)

    def prefill_tokens(self, slots: Ints) -> Floats:
        return self._gather(_PREFILL, slots)

    def prefill_at(self, slot: int) -> float:
        """`prefill_tokens` of one slot that something was sent to."""
        return self._columns.cells[_PREFILL * self._columns.capacity + slot]

    def decode_tokens(self, slots: Ints) -> Floats:
        return self._gather(_DECODE, slots)

    def _gather(self, signal: int, slots: Ints) -> Floats:
        try:
            gathered: Floats = self._rows[signal][slots]
        except IndexError:  # a slot that nothing was ever sent to
            self._grow(int(np.max(slots)))
            gathered = self._rows[signal][slots]
        return gathered

    def _grow(self, slot: int) -> None:
        self._columns.grow(slot)
        self._rows = tuple(self._columns.view)
        self._tenancies.extend([0] * (self._columns.capacity - len(self._tenancies)))
