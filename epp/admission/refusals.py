"""What a client is told that waited in vain, or whose running request had to give way."""

from __future__ import annotations

from epp.admission.ticket import Outcome
from epp.domain.errors import Reason, Refused

_EVICTED = "request evicted by flow control: more important work needs the capacity; try again later"


def refusal(
    outcome: Outcome, *, pool_empty: bool = False, closed: bool = False, retry_after_s: int | None = None
) -> Refused:
    """`pool_empty`: there is no endpoint now; `closed`: the picker is shutting down."""
    if outcome is Outcome.REJECTED_CAPACITY and not pool_empty:
        return Refused(
            Reason.QUEUE_FULL,
            "the queue of this priority is full; try again later",
            retry_after_s=retry_after_s,
        )
    if outcome in (Outcome.REJECTED_CAPACITY, Outcome.REJECTED_NO_ENDPOINTS):
        words = "no endpoints available: the pool has none and the queue is full"
        return Refused(Reason.NO_ENDPOINTS, words, retry_after_s=retry_after_s)
    if outcome is Outcome.EVICTED_NO_ENDPOINTS or (outcome is Outcome.EVICTED_TTL and pool_empty):
        words = "request timed out in queue and no endpoints are available"
        return Refused(Reason.NO_ENDPOINTS, words, retry_after_s=retry_after_s)
    if outcome is Outcome.EVICTED_TTL:
        words = "request timed out in queue: the pool had no room for it in time"
        return Refused(Reason.QUEUE_TIMEOUT, words, retry_after_s=retry_after_s)
    if outcome is Outcome.EVICTED_CONTEXT_CANCELLED:
        return Refused(Reason.CLIENT_GONE, "client disconnected while the request was queued")
    if closed and outcome in (Outcome.REJECTED_OTHER, Outcome.EVICTED_OTHER):
        words = "flow controller shutting down: the request was not sent"
        return Refused(Reason.SHUTTING_DOWN, words, retry_after_s=retry_after_s)
    return Refused(Reason.INTERNAL, f"internal flow control error: unexpected outcome {outcome}")


def evicted(retry_after_s: int | None = None) -> Refused:
    """For a running request whose answer has not begun; a later one can only be broken off."""
    return Refused(Reason.EVICTED, _EVICTED, retry_after_s=retry_after_s)
