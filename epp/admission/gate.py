"""The gate without queues: sheddable requests (priority below 0) are refused while the pool is saturated."""

from __future__ import annotations

from epp.admission.saturation import SaturationDetector
from epp.domain.errors import Reason, Refused
from epp.domain.request import Request
from epp.domain.snapshot import Ints, Snapshot
from epp.domain.views import InflightView


class Gate:
    """Requests of priority 0 and above always pass and never wait."""

    def __init__(self, detector: SaturationDetector, inflight: InflightView) -> None:
        self._detector = detector
        self._inflight = inflight

    def admit(self, request: Request, snapshot: Snapshot, rows: Ints, now: float) -> None:
        """Raises Refused(SHED) when the request may not go now."""
        if request.priority >= 0:
            return
        load = self._detector.saturation(snapshot, rows, self._inflight, now)
        if load >= 1.0:
            raise Refused(
                Reason.SHED,
                f"the pool is saturated (load {load:.2f}) and the request's priority {request.priority} is "
                "sheddable; try again later",
            )
