"""A priority band: the flows of one priority, its limits and its policies."""

from __future__ import annotations

from dataclasses import dataclass, field

from epp.admission.fairness import FairnessPolicy, GlobalStrict
from epp.admission.flow import Flow
from epp.admission.limits import BAND_LIMITS, Held, Limits
from epp.admission.order import FirstCome, OrderingPolicy
from epp.admission.retry import DrainRate
from epp.admission.shares import Shares
from epp.scheduling.contract import NoParameters


@dataclass(frozen=True, slots=True)
class BandSettings:
    """The defaults are the reference picker's."""

    limits: Limits = BAND_LIMITS
    fairness: FairnessPolicy = field(default_factory=lambda: GlobalStrict(NoParameters()))
    order: OrderingPolicy = field(default_factory=lambda: FirstCome(NoParameters()))


class Band:
    """Single writer: the registry and FlowControl."""

    __slots__ = (
        "fairness", "flows", "held", "idle_since", "in_flight", "order", "priority", "rate", "sent", "shares",
    )  # fmt: skip

    def __init__(self, priority: int, settings: BandSettings, now: float) -> None:
        self.priority = priority
        self.held = Held(settings.limits)
        self.order = settings.order
        self.fairness = settings.fairness.for_band()
        self.flows: dict[str, Flow] = {}
        """By fairness id; also those with nothing waiting, until they are forgotten."""
        self.shares = Shares(settings.limits)
        self.rate = DrainRate(now)
        self.sent = 0
        """By the drain that goes on."""
        self.in_flight = 0
        """Dispatched and not finished."""
        self.idle_since = now
        """When a request last came or ended."""
