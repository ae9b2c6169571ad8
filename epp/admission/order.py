"""Ordering policies: which request of a flow goes first. Each gives a key that never changes; least first.

Requests with equal keys go in order of arrival.
"""

from __future__ import annotations

from math import inf
from typing import Any, Protocol, runtime_checkable

from epp.admission.ticket import Ticket
from epp.scheduling.contract import BuildContext, NoParameters, PluginType


@runtime_checkable
class OrderingPolicy(Protocol):
    def order_key(self, ticket: Ticket[Any]) -> float:
        """Least goes first."""


class FirstCome:
    """By time of arrival in the queue."""

    def __init__(self, parameters: NoParameters, context: BuildContext | None = None) -> None:
        pass

    def order_key(self, ticket: Ticket[Any]) -> float:
        return ticket.enqueued_at


class EarliestDeadline:
    """By the end of the TTL; requests without one come last."""

    def __init__(self, parameters: NoParameters, context: BuildContext | None = None) -> None:
        pass

    def order_key(self, ticket: Ticket[Any]) -> float:
        return ticket.deadline_at


class SloDeadline:
    """By the time at which the first token was asked for; requests that did not ask come last."""

    def __init__(self, parameters: NoParameters, context: BuildContext | None = None) -> None:
        pass

    def order_key(self, ticket: Ticket[Any]) -> float:
        return inf if ticket.ttft_slo_s is None else ticket.received_at + ticket.ttft_slo_s


FIRST_COME = "fcfs-ordering-policy"

PLUGINS: tuple[PluginType[Any], ...] = (
    PluginType(FIRST_COME, NoParameters, FirstCome, "requests of a flow go in order of arrival"),
    PluginType(
        "edf-ordering-policy", NoParameters, EarliestDeadline, "requests whose TTL ends soonest go first"
    ),
    PluginType(
        "slo-deadline-ordering-policy",
        NoParameters,
        SloDeadline,
        "requests go by arrival + wanted time to first token (x-llm-d-slo-ttft-ms)",
    ),
)
