"""Which running request is aborted so that a more important one can go.

While the highest band that has requests waiting is kept back by the pool's saturation, requests of negative
priority that run may be aborted for it: at most two at a time, and none before the last ones are gone and
their absence can be seen in the metrics. What each gives back is taken to be the mean: saturation divided by
the requests in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Protocol, runtime_checkable

from epp.admission.queue import Queue
from epp.admission.ticket import Ticket
from epp.scheduling.contract import BuildContext, NoParameters, PluginType


@runtime_checkable
class EvictionFilter(Protocol):
    def evictable(self, ticket: Ticket[Any]) -> bool:
        """Asked once, when the request is sent."""


@runtime_checkable
class EvictionOrder(Protocol):
    def eviction_key(self, ticket: Ticket[Any]) -> tuple[float, float]:
        """Least is aborted first. Asked once, when the request is sent."""


class Sheddable:
    """Negative priorities."""

    def __init__(self, parameters: NoParameters, context: BuildContext | None = None) -> None:
        pass

    def evictable(self, ticket: Ticket[Any]) -> bool:
        return ticket.priority < 0


class LowestThenNewest:
    """Lowest priority first; of those the newest, which has the least work to lose."""

    def __init__(self, parameters: NoParameters, context: BuildContext | None = None) -> None:
        pass

    def eviction_key(self, ticket: Ticket[Any]) -> tuple[float, float]:
        return (float(ticket.priority), -ticket.left_at)


@dataclass(frozen=True, slots=True)
class EvictionSettings:
    """The defaults are the reference picker's."""

    filter: EvictionFilter = field(default_factory=lambda: Sheddable(NoParameters()))
    order: EvictionOrder = field(default_factory=lambda: LowestThenNewest(NoParameters()))
    most_at_once: int = 2
    grace_s: float = 0.5
    """After an aborted request has ended, until the metrics show it. The reference takes 0.01 with the
    concurrency detector and scrape interval + staleness + 0.25 otherwise."""
    timeout_s: float = 10.0
    """An aborted request that has not ended by then counts as ended."""


class Reclaim:
    """Single writer. Knows the requests in flight that may be aborted."""

    def __init__(self, settings: EvictionSettings) -> None:
        self._settings = settings
        self._victims: dict[int, Ticket[Any]] = {}
        self._order: Queue[tuple[float, float]] = Queue(self._victims)
        self._revoked: dict[int, float] = {}
        """Aborted and not ended: by number, when."""
        self._open_at = float("-inf")
        """Nothing is aborted before this."""
        self.target = 0.0
        """How much saturation was to be given back at the last decision."""
        self.pending = 0.0
        """How much saturation the aborted ones will give back that the metrics do not show yet."""
        self.timed_out = 0
        """Aborted requests that did not end in time, since the start."""

    def sent(self, ticket: Ticket[Any]) -> None:
        if self._settings.filter.evictable(ticket):
            self._victims[ticket.seq] = ticket
            self._order.push(self._settings.order.eviction_key(ticket), ticket.seq)

    def ended(self, ticket: Ticket[Any], now: float) -> None:
        if self._victims.pop(ticket.seq, None) is not None:
            self._order.gone()
        if self._revoked.pop(ticket.seq, None) is not None:
            self._open_at = max(self._open_at, now + self._settings.grace_s)

    def victim_priority(self) -> int | None:
        """Of the one that would be aborted next."""
        first = self._order.first()
        return None if first is None else self._victims[first[1]].priority

    def ready(self, now: float) -> bool:
        """All that were aborted have ended, or had time enough, and the metrics can know."""
        for seq in [s for s, at in self._revoked.items() if now - at >= self._settings.timeout_s]:
            del self._revoked[seq]
            self.timed_out += 1
            self._open_at = now + self._settings.grace_s
        if self._revoked or now < self._open_at:
            return False
        self.pending = 0.0
        return True

    def choose(
        self, now: float, *, priority: int, saturation: float, ceiling: float, in_flight: int
    ) -> Sequence[Ticket[Any]]:
        """Requests to abort for one of `priority` that waits. Call only when `ready`."""
        chosen: list[Ticket[Any]] = []
        if in_flight <= 0 or saturation <= 0.0:
            return chosen
        self.target = saturation - ceiling
        each = saturation / in_flight
        # It is sent below the ceiling, not at it: one at least.
        wanted = max(1, ceil(self.target / each))
        for _ in range(min(wanted, self._settings.most_at_once)):
            first = self._order.first()
            if first is None or self._victims[first[1]].priority >= priority:
                break
            ticket = self._victims.pop(first[1])
            self._order.gone()
            ticket.revoked_at = now
            self._revoked[ticket.seq] = now
            chosen.append(ticket)
        self.pending = each * len(chosen)
        return chosen


PLUGINS: tuple[PluginType[Any], ...] = (
    PluginType(
        "sheddable-eviction-filter",
        NoParameters,
        Sheddable,
        "running requests of negative priority may be aborted",
        alpha=True,
    ),
    PluginType(
        "priority-then-time-eviction-order-policy",
        NoParameters,
        LowestThenNewest,
        "the running request of lowest priority is aborted first; of those the newest",
        alpha=True,
    ),
)
