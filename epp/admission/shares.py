"""Which flow holds most of a band."""

from __future__ import annotations

from epp.admission.flow import Flow
from epp.admission.limits import BAND_LIMITS, Limits
from epp.admission.ranking import Ranking


class Shares:
    """One band's flows by what they hold of it: the greater share of requests or bytes, divided by weight."""

    __slots__ = ("_largest", "_max_bytes", "_max_requests")

    def __init__(self, limits: Limits) -> None:
        # Without limits, requests and bytes are weighed as the defaults weigh them.
        self._max_requests = limits.max_requests or BAND_LIMITS.max_requests or 1
        self._max_bytes = limits.max_bytes or BAND_LIMITS.max_bytes or 1
        self._largest: Ranking[float] = Ranking()
        """By -share when the flow last grew, so never less than what it holds."""

    def grew(self, flow: Flow) -> None:
        self._largest.set(flow, -self.of(flow))

    def forget(self, flow: Flow) -> None:
        self._largest.discard(flow)

    def of(self, flow: Flow, requests: int = 0, size_bytes: int = 0) -> float:
        """What it holds, with so many more."""
        by_requests = (len(flow.queue) + requests) / self._max_requests
        return max(by_requests, (flow.waiting_bytes + size_bytes) / self._max_bytes) / flow.weight

    def largest(self) -> Flow | None:
        while (first := self._largest.first()) is not None:
            key, flow = first
            if not len(flow.queue):
                self._largest.discard(flow)
            elif -self.of(flow) > key:
                self._largest.set(flow, -self.of(flow))
            else:
                return flow
        return None
