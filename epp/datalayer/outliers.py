"""Endpoints whose real requests fail are avoided for a growing time and come back by themselves.

A refused or reset connection counts most: nobody is there. A 5xx counts when several come without a success
between. A 503 counts least, since an engine that is only overloaded says so too, and 429 not at all: load is
the scorers' business, and shutting out a busy endpoint would only push its load onto the next one.
After its time an endpoint is tried again; one failure then sends it away at once and for longer, one success
clears it. At most half of the pool is avoided at once: when everything fails, the fault is hardly theirs.
"""

from __future__ import annotations

from enum import IntEnum
from random import Random

import numpy as np

from epp.domain.snapshot import Bools, Ints

BASE_S = 1.0
"""First avoidance: spares a dead process some hundred requests, costs little after a lone reset."""
CAP_S = 60.0
JITTER = 0.2
"""Times are drawn from +-20 %, so that endpoints of one failed node do not come back in one instant."""
TRIP = 15
"""Points at which an endpoint is avoided."""


class Fault(IntEnum):
    """Why a request failed, in points towards TRIP."""

    CONNECT = 15
    """Refused, reset or timed out before an answer: one is enough."""
    SERVER = 5
    """500, 502, 504 and the like: three in a row."""
    OVERLOADED = 3
    """503: five in a row."""


def fault_of(status: int) -> Fault | None:
    """What a model server's status says about its health; None for nothing bad."""
    if status < 500:
        return None
    return Fault.OVERLOADED if status == 503 else Fault.SERVER


class _Record:
    __slots__ = ("avoided", "points", "rounds", "until")

    def __init__(self) -> None:
        self.points = 0
        self.rounds = 0
        """Avoidances since the last success."""
        self.avoided = False
        self.until = 0.0


class Outliers:
    """Pure: instants come as arguments. Healthy endpoints cost nothing and are not kept."""

    def __init__(self, rng: Random, *, base_s: float = BASE_S, cap_s: float = CAP_S) -> None:
        self._rng = rng
        self._base_s = base_s
        self._cap_s = cap_s
        self._records: dict[int, _Record] = {}
        self._avoided = 0
        self._limit = 0
        self.version = 0
        """Changes whenever an endpoint becomes avoided or available."""
        self.ejections = 0
        """Avoidances so far."""

    @property
    def avoided(self) -> int:
        """Endpoints that are avoided now."""
        return self._avoided

    def success(self, slot: int) -> None:
        """A real request was answered: the endpoint is well, whatever was before."""
        if self._records:
            record = self._records.pop(slot, None)
            if record is not None and record.avoided:
                self._changed(-1)

    def failure(self, slot: int, now: float, fault: Fault = Fault.CONNECT) -> bool:
        """A real request failed because of the endpoint; True when it is avoided from now on."""
        record = self._records.get(slot)
        if record is None:
            record = self._records[slot] = _Record()
        if record.avoided:
            return False  # a request that left before; the time is running already
        record.points += fault
        if record.points < TRIP and not record.rounds:
            return False
        if self._avoided >= self._limit:
            return False
        span = min(self._cap_s, self._base_s * 2 ** min(record.rounds, 30))
        record.until = now + span * self._rng.uniform(1 - JITTER, 1 + JITTER)
        record.rounds += 1
        record.points = 0
        record.avoided = True
        self.ejections += 1
        self._changed(1)
        return True

    def rounds(self, slot: int) -> int:
        """Avoidances of this endpoint since it last answered."""
        record = self._records.get(slot)
        return 0 if record is None else record.rounds

    def tick(self, now: float) -> None:
        """Let those back in whose time is over."""
        if self._avoided:
            for record in self._records.values():
                if record.avoided and record.until <= now:
                    self._readmit(record)

    def available(self, slots: Ints) -> Bools:
        """False for the avoided ones."""
        answer = np.ones(len(slots), dtype=np.bool_)
        if self._avoided:
            away = [slot for slot, record in self._records.items() if record.avoided]
            answer[np.isin(slots, away)] = False
        return answer

    def resize(self, endpoints: int) -> None:
        """The pool has so many endpoints now; if more than half are avoided, the soonest due return."""
        self._limit = endpoints // 2
        excess = self._avoided - self._limit
        if excess > 0:
            away = sorted((r for r in self._records.values() if r.avoided), key=lambda r: r.until)
            for record in away[:excess]:
                self._readmit(record)

    def forget(self, slot: int) -> None:
        self.success(slot)

    def _readmit(self, record: _Record) -> None:
        record.avoided = False
        self._changed(-1)

    def _changed(self, difference: int) -> None:
        self._avoided += difference
        self.version += 1
