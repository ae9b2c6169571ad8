"""One request in the queues: what they know of it, and what became of it."""

from __future__ import annotations

from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from epp.admission.flow import Flow

W = TypeVar("W")


class Outcome(StrEnum):
    """How waiting ended, as the reference picker spells it in its metrics."""

    DISPATCHED = "Dispatched"
    REJECTED_CAPACITY = "RejectedCapacity"
    REJECTED_NO_ENDPOINTS = "RejectedNoEndpoints"
    REJECTED_OTHER = "RejectedOther"
    EVICTED_TTL = "EvictedTTL"
    EVICTED_NO_ENDPOINTS = "EvictedNoEndpoints"
    EVICTED_CONTEXT_CANCELLED = "EvictedContextCancelled"
    EVICTED_OTHER = "EvictedOther"


class Ticket(Generic[W]):
    """Made by FlowControl.enqueue. Whoever holds one reads it; only the queues write it."""

    __slots__ = (
        "charged_output", "deadline_at", "ended", "enqueued_at", "expected_output", "flow", "input_tokens",
        "left_at", "outcome", "own_ttl", "placed", "received_at", "revoked_at", "seq", "size_bytes",
        "ttft_slo_s", "ttl_s", "waiter",
    )  # fmt: skip

    def __init__(
        self,
        seq: int,
        waiter: W,
        flow: Flow,
        size_bytes: int,
        input_tokens: int,
        expected_output: int,
        enqueued_at: float,
        received_at: float,
        deadline_at: float = inf,
        ttft_slo_s: float | None = None,
    ) -> None:
        self.seq = seq
        """Order of arrival; unique."""
        self.waiter = waiter
        """What the caller wants to find again, as a future."""
        self.flow = flow
        self.size_bytes = size_bytes
        self.input_tokens = input_tokens
        self.expected_output = expected_output
        """Output tokens charged in advance; 0 charges them as they come."""
        self.enqueued_at = enqueued_at
        self.received_at = received_at
        self.deadline_at = deadline_at
        """When its TTL ends; inf for none, and while only the wait for an endpoint counts."""
        self.ttl_s = deadline_at - enqueued_at
        self.own_ttl = False
        """The request set it: it counts also while there is no endpoint."""
        self.ttft_slo_s = ttft_slo_s
        self.outcome: Outcome | None = None
        """None while it waits. Set once."""
        self.left_at = inf
        """When the outcome was set; for a dispatched one, when it was dispatched."""
        self.placed = False
        """The ledger counts it, so the pool's load includes it."""
        self.revoked_at = inf
        """When it was chosen to be aborted in favour of more important work."""
        self.ended = False
        """Dispatched and over."""
        self.charged_output = 0
        """Output tokens that its flow has been charged for so far."""

    @property
    def priority(self) -> int:
        """Of the band in which it waits."""
        return self.flow.priority

    @property
    def revoked(self) -> bool:
        return self.revoked_at < inf

    @property
    def waited_s(self) -> float:
        """Between its arrival in the queue and its outcome."""
        return self.left_at - self.enqueued_at
