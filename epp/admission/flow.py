"""A flow: the requests of one fairness id in one priority band."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from epp.admission.queue import Queue
from epp.admission.ticket import Ticket


class Flow:
    """Single writer: the registry and FlowControl."""

    __slots__ = (
        "_tickets", "counter", "fairness_id", "in_flight", "priority", "queue", "waiting_bytes", "weight",
    )  # fmt: skip

    def __init__(self, fairness_id: str, priority: int, tickets: Mapping[int, Ticket[Any]]) -> None:
        self.fairness_id = fairness_id
        self.priority = priority
        """Of its band."""
        self._tickets = tickets
        self.queue: Queue[float] = Queue(tickets)
        self.waiting_bytes = 0
        self.in_flight = 0
        """Dispatched and not finished."""
        self.counter = -inf
        """What the band's fairness policy keeps of it."""
        self.weight = 1.0
        """Its share, for policies that know shares."""

    @property
    def waiting(self) -> int:
        return len(self.queue)

    @property
    def idle(self) -> bool:
        return not self.in_flight and not len(self.queue)

    def head(self) -> Ticket[Any]:
        """The request that goes next. Asked only while some wait."""
        first = self.queue.first()
        assert first is not None
        return self._tickets[first[1]]
