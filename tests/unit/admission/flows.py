"""Short ways to build flow control in tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from epp.admission.band import BandSettings
from epp.admission.control import FlowControl
from epp.admission.fairness import FairnessPolicy, GlobalStrict, RoundRobin
from epp.admission.limits import BAND_LIMITS, Limits
from epp.admission.order import FirstCome, OrderingPolicy
from epp.admission.registry import RegistrySettings
from epp.admission.room import Slots
from epp.admission.settings import FlowControlSettings
from epp.admission.ticket import Ticket
from epp.admission.vtc import TokenCounterParameters, VirtualTokenCounter
from epp.scheduling.contract import NoParameters

NOTHING = NoParameters()


def strict() -> GlobalStrict:
    return GlobalStrict(NOTHING)


def turns() -> RoundRobin:
    return RoundRobin(NOTHING)


def counter(**weights: float) -> VirtualTokenCounter:
    return VirtualTokenCounter(TokenCounterParameters(weights=weights))


def band(
    fairness: FairnessPolicy | None = None,
    order: OrderingPolicy | None = None,
    limits: Limits = BAND_LIMITS,
) -> BandSettings:
    return BandSettings(limits, fairness or strict(), order or FirstCome(NOTHING))


def control(
    default: BandSettings | None = None,
    *,
    bands: Mapping[int, BandSettings] | None = None,
    now: float = 0.0,
    registry: Mapping[str, Any] | None = None,
    **settings: Any,
) -> FlowControl[str]:
    rows = RegistrySettings(default=default or band(), bands=bands or {}, **(registry or {}))
    return FlowControl(FlowControlSettings(registry=rows, **settings), now)


def ask(flow: FlowControl[str], name: str, now: float = 0.0, **more: Any) -> Ticket[str]:
    """Enqueue one that must be taken; its flow is what stands before a dash in its name."""
    more.setdefault("fairness_id", name.partition("-")[0])
    ticket = flow.enqueue(name, now, **more)
    assert isinstance(ticket, Ticket)
    return ticket


def send(flow: FlowControl[str], slots: int = 1, now: float = 0.0) -> list[str]:
    """Dispatch, and count as placed."""
    sent = flow.dispatch(now, Slots(slots))
    for ticket in sent:
        flow.placed(ticket)
    return [ticket.waiter for ticket in sent]
