"""The queues as they are now, for somebody who asks why requests wait or are refused: JSON and text."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any

from epp.admission.band import Band, BandSettings
from epp.admission.flow import Flow
from epp.admission.limits import Held
from epp.admission.settings import FlowControlSettings
from epp.domain.views import Clock
from epp.queues import Queues
from epp.telemetry.flow import EFFECTIVE, FlowMetrics, SaturationView
from epp.telemetry.refusals import Refusal
from epp.web.answers import grid, printable

FLOWS = 20
_LAST_CHANCE = 0.999999


@dataclass(frozen=True, slots=True)
class FlowPage:
    """Without queues it shows the saturation alone."""

    load: SaturationView
    detector: str
    clock: Clock
    queues: Queues | None = None
    settings: FlowControlSettings | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    """Of policies, by id()."""
    metrics: FlowMetrics | None = None

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        stages = self.load.by_stage()
        saturation = max(stages.values(), default=1.0)
        said: dict[str, Any] = {
            "enabled": self.queues is not None,
            "saturation": {
                **{stage: round(value, 4) for stage, value in stages.items()},
                EFFECTIVE: round(saturation, 4),
            },
            "detector": self.detector,
            "stale_endpoints": self.load.stale(),
        }
        if self.queues is not None and self.settings is not None:
            said |= self._queues(self.queues, self.settings, saturation)
        return said

    def summary(self) -> dict[str, Any]:
        """The least of it, JSON-ready."""
        control = None if self.queues is None else self.queues.control
        return {
            "saturation": round(max(self.load.by_stage().values(), default=1.0), 4),
            "waiting": None if control is None else control.held.requests,
            "in_flight": None if control is None else control.in_flight,
        }

    def _queues(self, queues: Queues, settings: FlowControlSettings, saturation: float) -> dict[str, Any]:
        control, now = queues.control, self.clock()
        registry = control.registry
        # On a copy: some policies count how often they are asked.
        ceilings = copy(settings.usage).ceilings(saturation, registry.priorities)
        flows = [flow for band in registry.bands for flow in band.flows.values() if flow.waiting]
        return {
            "usage_limit_policy": self._name(settings.usage),
            "ttl_s": settings.ttl_s,
            "no_endpoint_ttl_s": settings.no_endpoint_ttl_s,
            "pool_empty": control.pool_empty,
            "shutting_down": control.closed,
            "all": {**_held(control.held), "in_flight": control.in_flight},
            "bands": [
                self._band(band, ceiling, saturation, queues)
                for band, ceiling in zip(registry.bands, ceilings, strict=True)
            ],
            "flows": [_flow(flow, now) for flow in nlargest(FLOWS, flows, key=lambda flow: flow.waiting)],
            "flows_waiting": len(flows),
            "fairness_ids": registry.fairness_ids,
            "fairness_ids_max": settings.registry.max_fairness_ids,
            "evictions": self._evictions(queues),
        }

    def _band(self, band: Band, ceiling: float, saturation: float, queues: Queues) -> dict[str, Any]:
        control = queues.control
        settings = self._settings_of(band.priority)
        rate = band.rate.per_second()
        refuses = control.refuses(band.priority, 0)
        return {
            "priority": band.priority,
            **_held(band.held),
            "in_flight": band.in_flight,
            "drained_per_s": None if rate is None else round(rate, 3),
            "ceiling": round(ceiling, 4),
            "below_ceiling": saturation < ceiling,
            "fairness_policy": self._name(settings.fairness),
            "ordering_policy": self._name(settings.order),
            "refuses": None if refuses is None else refuses.value,
            "retry_after_s": [control.retry_after_s(band.priority, chance) for chance in (0.0, _LAST_CHANCE)],
        }

    def _settings_of(self, priority: int) -> BandSettings:
        assert self.settings is not None
        registry = self.settings.registry
        if priority in registry.bands:
            return registry.bands[priority]
        return registry.negative if priority < 0 and registry.negative is not None else registry.default

    def _name(self, policy: object) -> str:
        return self.names.get(id(policy)) or type(policy).__name__

    def _evictions(self, queues: Queues) -> dict[str, Any] | None:
        reclaim = queues.control.reclaim
        if reclaim is None or self.metrics is None:
            return None
        return {
            "issued": {str(priority): count for priority, count in self.metrics.issued.items()},
            **self.metrics.revocations(),
            "target": round(reclaim.target, 4),
            "pending": round(reclaim.pending, 4),
        }


def _held(held: Held) -> dict[str, Any]:
    return {
        "waiting": held.requests,
        "max_requests": held.limits.max_requests,
        "share_of_requests": round(held.share_of_requests, 4),
        "bytes": held.bytes,
        "max_bytes": held.limits.max_bytes,
        "share_of_bytes": round(held.share_of_bytes, 4),
    }


def _flow(flow: Flow, now: float) -> dict[str, Any]:
    (oldest,) = deque(flow.newest(), maxlen=1)
    return {
        "fairness_id": flow.fairness_id,
        "priority": flow.priority,
        "waiting": flow.waiting,
        "bytes": flow.waiting_bytes,
        "in_flight": flow.in_flight,
        "weight": flow.weight,
        "oldest_wait_s": round(now - oldest.enqueued_at, 3),
        "next_wait_s": round(now - flow.head().enqueued_at, 3),
    }


def text(said: Mapping[str, Any], refusals: Sequence[Refusal]) -> str:
    """The same for a terminal, and the last refusals."""
    stages = ", ".join(f"{stage} {value:g}" for stage, value in said["saturation"].items())
    stale = "" if said["stale_endpoints"] is None else f", {said['stale_endpoints']} stale endpoints"
    lines = [f"saturation  {stages} ({said['detector']}{stale})"]
    if said["enabled"]:
        lines += _lines(said)
    else:
        lines.append("queues      none: the feature gate flowControl is closed")
    return "\n".join([*lines, *last_lines(refusals)]) + "\n"


def last_lines(refusals: Sequence[Refusal]) -> list[str]:
    if not refusals:
        return []
    return ["", "last refusals", *(f"  {printable(one.request_id)} {one.line}" for one in refusals)]


def _lines(said: Mapping[str, Any]) -> list[str]:
    whole = said["all"]
    lines = [
        f"waiting     {_of(whole['waiting'], whole['max_requests'])} requests, "
        f"{_of(whole['bytes'], whole['max_bytes'])} bytes; in flight {whole['in_flight']}",
        f"limits      {said['usage_limit_policy']}, TTL {_or_none(said['ttl_s'])} s, "
        f"without endpoints {_or_none(said['no_endpoint_ttl_s'])} s",
        f"flows       {said['flows_waiting']} waiting; {said['fairness_ids']} of at most "
        f"{said['fairness_ids_max']} fairness ids",
    ]
    if said["pool_empty"]:
        lines.append("pool        EMPTY: nothing is sent until there is an endpoint")
    if said["shutting_down"]:
        lines.append("picker      SHUTTING DOWN: nothing is taken any more")
    if said["evictions"] is not None:
        evictions = said["evictions"]
        issued = sum(evictions["issued"].values())
        lines.append(
            f"evictions   {issued} issued, {evictions['confirmed']} confirmed, "
            f"{evictions['timed_out']} timed out; to give back {evictions['target']:g}, "
            f"pending {evictions['pending']:g}"
        )
    head = ("priority", "waiting", "bytes", "in flight", "drained/s", "ceiling", "sends", "refuses",
            "Retry-After", "fairness", "order")  # fmt: skip
    rows = [
        (
            str(band["priority"]),
            _of(band["waiting"], band["max_requests"]),
            _of(band["bytes"], band["max_bytes"]),
            str(band["in_flight"]),
            "-" if band["drained_per_s"] is None else f"{band['drained_per_s']:g}",
            f"{band['ceiling']:g}",
            "yes" if band["below_ceiling"] else "no",
            band["refuses"] or "no",
            "{}..{} s".format(*band["retry_after_s"]),
            band["fairness_policy"],
            band["ordering_policy"],
        )
        for band in said["bands"]
    ]
    lines += ["", *grid([head, *rows])]
    if said["flows"]:
        longest = [
            (
                _plain(flow["fairness_id"]), str(flow["priority"]), str(flow["waiting"]),
                str(flow["in_flight"]), f"{flow['oldest_wait_s']:g} s", f"{flow['next_wait_s']:g} s",
            )
            for flow in said["flows"]
        ]  # fmt: skip
        heads = ("fairness id", "priority", "waiting", "in flight", "oldest", "next to go")
        lines += ["", *grid([heads, *longest])]
    return lines


def _of(held: int, limit: int | None) -> str:
    return f"{held}/{'-' if limit is None else limit}"


def _or_none(seconds: float | None) -> str:
    return "no" if seconds is None else f"{seconds:g}"


def _plain(words: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in words)
