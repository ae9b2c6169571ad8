"""A flow: the requests of one fairness id in one priority band."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

from epp.admission.queue import Queue
from epp.admission.ticket import Ticket

_SPARE = 16


class Flow:
    """Single writer: the registry and FlowControl."""

    __slots__ = (
        "_recent", "_tickets", "counter", "fairness_id", "in_flight", "priority", "queue", "waiting_bytes",
        "weight",
    )  # fmt: skip

    def __init__(self, fairness_id: str, priority: int, tickets: Mapping[int, Ticket[Any]]) -> None:
        self.fairness_id = fairness_id
        self.priority = priority
        """Of its band."""
        self._tickets = tickets
        self._recent: list[int] = []
        """Numbers in order of arrival, among them some that left."""
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

    def push(self, key: float, ticket: Ticket[Any]) -> None:
        """One more waits."""
        self.queue.push(key, ticket.seq)
        self.waiting_bytes += ticket.size_bytes
        recent = self._recent
        recent.append(ticket.seq)
        if len(recent) > 2 * len(self.queue) + _SPARE:
            tickets = self._tickets
            recent[:] = [seq for seq in recent if seq in tickets]

    def gone(self, ticket: Ticket[Any]) -> None:
        """One left."""
        self.queue.gone()
        self.waiting_bytes -= ticket.size_bytes

    def newest(self) -> Iterator[Ticket[Any]]:
        """Those that wait, the last to come first."""
        recent, tickets = self._recent, self._tickets
        while recent and recent[-1] not in tickets:
            recent.pop()
        for seq in reversed(recent):
            if seq in tickets:
                yield tickets[seq]
