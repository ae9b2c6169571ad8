"""The ledger against a plain model of it: whatever happens, sums are those of the open entries."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from epp.datalayer.inflight import Entry, Ledger

SLOTS = 5
slots = st.integers(0, SLOTS - 1)
tokens = st.integers(0, 10_000)


class LedgerMachine(RuleBasedStateMachine):
    entries = Bundle("entries")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.tenancies = [0] * SLOTS
        self.model: dict[Entry, list[int]] = {}
        """Open entries: [slot, tenancy, prefill, decode]."""

    @rule(target=entries, slot=slots, prefill=tokens, decode=tokens)
    def start(self, slot: int, prefill: int, decode: int) -> Entry:
        entry = self.ledger.start(slot, prefill_tokens=prefill, decode_tokens=decode)
        self.model[entry] = [slot, self.tenancies[slot], prefill, decode]
        return entry

    @rule(entry=entries)
    def first_token(self, entry: Entry) -> None:
        entry.first_token()
        if entry in self.model:
            self.model[entry][2] = 0

    @rule(entry=entries, count=st.integers(-5, 20_000))
    def generated(self, entry: Entry, count: int) -> None:
        entry.generated(count)
        if entry in self.model:
            held = self.model[entry]
            held[3] = max(0, held[3] - max(0, count))

    @rule(entry=entries, slot=slots)
    def move(self, entry: Entry, slot: int) -> None:
        entry.move(slot)
        if entry in self.model:
            self.model[entry][:2] = [slot, self.tenancies[slot]]

    @rule(entry=entries)
    def end(self, entry: Entry) -> None:
        entry.end()
        self.model.pop(entry, None)

    @rule(slot=slots)
    def forget(self, slot: int) -> None:
        self.ledger.forget(slot)
        self.tenancies[slot] += 1

    @invariant()
    def sums_are_those_of_the_open_entries(self) -> None:
        expected = np.zeros((3, SLOTS))
        for slot, tenancy, prefill, decode in self.model.values():
            if self.tenancies[slot] == tenancy:
                expected[:, slot] += (1, prefill, decode)
        rows = np.arange(SLOTS)
        held = [self.ledger.requests(rows), self.ledger.prefill_tokens(rows), self.ledger.decode_tokens(rows)]
        assert np.array_equal(np.asarray(held), expected)
        assert self.ledger.open_entries == len(self.model)

    def teardown(self) -> None:
        for entry in self.model:
            entry.end()
        rows = np.arange(SLOTS)
        assert not self.ledger.requests(rows).any()
        assert not self.ledger.prefill_tokens(rows).any()
        assert not self.ledger.decode_tokens(rows).any()
        assert self.ledger.open_entries == 0


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_slots_beyond_the_first_capacity_are_counted_and_gathered() -> None:
    ledger = Ledger()
    assert ledger.requests(np.array([5000])).tolist() == [0.0]
    entry = ledger.start(20_000, prefill_tokens=7)
    ledger.start(1)
    assert ledger.requests(np.array([1, 20_000, 2])).tolist() == [1.0, 1.0, 0.0]
    assert ledger.prefill_tokens(np.array([20_000])).tolist() == [7.0]
    entry.end()
    assert ledger.requests(np.array([20_000])).tolist() == [0.0]


def test_a_gathered_column_does_not_change_afterwards() -> None:
    ledger = Ledger()
    before = ledger.requests(np.array([0]))
    ledger.start(0)
    assert before.tolist() == [0.0]


def test_a_request_whose_endpoint_left_is_counted_where_it_moves() -> None:
    ledger = Ledger()
    entry = ledger.start(0, prefill_tokens=5)
    ledger.forget(0)
    other = ledger.start(0)  # the slot's next tenant
    entry.move(1)
    assert ledger.requests(np.array([0, 1])).tolist() == [1.0, 1.0]
    assert ledger.prefill_tokens(np.array([0, 1])).tolist() == [0.0, 5.0]
    entry.end()
    other.end()
    assert ledger.requests(np.array([0, 1])).tolist() == [0.0, 0.0]
