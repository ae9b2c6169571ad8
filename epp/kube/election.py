"""Who leads, by what was read of a Lease and when. No I/O; `now` is the caller's own monotonic clock.

No clock of another process counts: a record is as old as the time since we first saw it as it is. A leader
counts from before it sent its last good renewal and steps down after `renew_s`; others wait the whole
`lease_s` from when they saw that renewal, which was later. So two never lead while no clock runs `lease_s
/ renew_s` times as fast as another.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """The usual ones of Kubernetes' own leader elections."""

    lease_s: float = 15.0
    """How long a record keeps others from the lead. Whole seconds."""
    renew_s: float = 10.0
    """How long a leader leads after its last good renewal."""
    retry_s: float = 2.0
    """Between two attempts, of leader and others."""

    def __post_init__(self) -> None:
        if not self.lease_s > self.renew_s > self.retry_s > 0:
            raise ValueError(f"{self} must have lease_s > renew_s > retry_s > 0")


@dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says. Times are texts: they are only compared for being others than before."""

    holder: str = ""
    """Empty when it was given back."""
    duration_s: float = 0.0
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0


class Election:
    """One candidate."""

    def __init__(self, identity: str, terms: Terms) -> None:
        self.identity = identity
        self._terms = terms
        self._record: Record | None = None
        self._seen_at = 0.0
        self._leads_until = float("-inf")

    @property
    def holder(self) -> str:
        """Whom the Lease named when it was last seen."""
        return self._record.holder if self._record is not None else ""

    def is_leader(self, now: float) -> bool:
        return now < self._leads_until

    @property
    def leads_until(self) -> float:
        """Unless renewed; in the past for who does not lead."""
        return self._leads_until

    def saw(self, record: Record | None, now: float) -> None:
        """The Lease as it was read; None when there is none."""
        if record is None or record.holder != self.identity:
            self._leads_until = float("-inf")
        if record != self._record:
            self._record, self._seen_at = record, now

    def may_write(self, now: float) -> bool:
        """Whether a record that names us may be put in place of the one that was seen."""
        return self._free_at() <= now

    def wrote(self, record: Record, sent_at: float, now: float) -> None:
        """The API took our record, which was sent at `sent_at`, in place of the one seen before."""
        self._record, self._seen_at = record, now
        self._leads_until = sent_at + self._terms.renew_s

    def resign(self) -> None:
        self._leads_until = float("-inf")

    def wait_s(self, now: float) -> float:
        """Until the next attempt."""
        left_s = self._free_at() - now
        return min(left_s, self._terms.retry_s) if left_s > 0 else self._terms.retry_s

    def _free_at(self) -> float:
        record = self._record
        if record is None or record.holder in ("", self.identity):
            return float("-inf")
        return self._seen_at + record.duration_s
