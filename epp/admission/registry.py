"""Which bands and flows there are, made on demand and forgotten when idle.

Bands are those of the configuration, priority 0, and those that the known objectives use ("provisioned"). A
request of any other priority goes to band 0. Flows are made by requests, so a client chooses their names:
there are at most so many ids, and whoever comes beyond shares the default flow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from epp.admission.band import Band, BandSettings
from epp.admission.flow import Flow
from epp.admission.ticket import Ticket

DEFAULT_FLOW = "default-flow"


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    default: BandSettings = field(default_factory=BandSettings)
    """Of provisioned bands that are not configured."""
    negative: BandSettings | None = None
    """The same for priorities below 0; None for `default`."""
    bands: Mapping[int, BandSettings] = field(default_factory=dict)
    """Configured ones, by priority."""
    max_fairness_ids: int = 1000
    """Distinct ids that have a flow of their own, as many as metrics tell apart."""
    max_id_chars: int = 256
    """Longer ids share the default flow too."""
    known_ids: frozenset[str] = frozenset()
    """Always have a flow of their own, beyond the limit if need be: those that the configuration names."""
    flow_idle_s: float = 300.0
    band_idle_s: float = 600.0


class Registry:
    """Single writer. `tickets` are all that wait, by number."""

    def __init__(self, settings: RegistrySettings, tickets: Mapping[int, Ticket[Any]], now: float) -> None:
        self._settings = settings
        self._tickets = tickets
        self._bands: dict[int, Band] = {}
        self.priorities: list[int] = []
        """Of all bands, highest first."""
        self.bands: list[Band] = []
        """In the same order."""
        self._provisioned: frozenset[int] = frozenset()
        self._ids: dict[str, int] = {}
        """How many flows each id has that counts against the limit."""
        self._idle: OrderedDict[Flow, float] = OrderedDict()
        """Idle flows and since when, longest idle first."""
        for priority in {0, *settings.bands}:
            self._make_band(priority, now)

    def provision(self, priorities: Iterable[int], now: float) -> None:
        """The priorities that the known objectives use; replaces those told before. Bands of priorities that
        are not used any more take no new requests and go when they have been idle for a while."""
        self._provisioned = frozenset(priorities)
        for priority in self._provisioned:
            if priority not in self._bands:
                self._make_band(priority, now)

    def band(self, priority: int) -> Band:
        """Where a request of this priority waits."""
        known = priority in self._provisioned or priority in self._settings.bands
        return self._bands[priority if known else 0]

    def band_of(self, flow: Flow) -> Band:
        return self._bands[flow.priority]

    def known_flow(self, band: Band, fairness_id: str) -> Flow | None:
        """Where such a request would wait; None for a flow that is yet to be made."""
        flow = band.flows.get(fairness_id)
        if flow is not None or self._may_have_own(fairness_id):
            return flow
        return band.flows.get(DEFAULT_FLOW)

    def flow(self, band: Band, fairness_id: str) -> Flow:
        """The flow of this id, made if need be; the default flow where there are too many."""
        flow = band.flows.get(fairness_id)
        if flow is not None:
            return flow
        if not self._may_have_own(fairness_id):
            fairness_id = DEFAULT_FLOW
            flow = band.flows.get(fairness_id)
            if flow is not None:
                return flow
        flow = band.flows[fairness_id] = Flow(fairness_id, band.priority, self._tickets)
        if self._counts(fairness_id):
            self._ids[fairness_id] = self._ids.get(fairness_id, 0) + 1
        return flow

    def busy(self, flow: Flow) -> None:
        """A request of the flow has come."""
        self._idle.pop(flow, None)

    def rest(self, flow: Flow, now: float) -> None:
        """A request of the flow has ended."""
        self._bands[flow.priority].idle_since = now
        if flow.idle:
            self._idle.pop(flow, None)
            self._idle[flow] = now

    def forget_idle(self, now: float) -> None:
        """Drop flows and bands that have been idle long enough. Costs O(1) and O(1) for each dropped flow,
        and a look at each band."""
        while self._idle:
            flow, since = next(iter(self._idle.items()))
            if now - since < self._settings.flow_idle_s:
                break
            del self._idle[flow]
            self._drop(flow)
        for priority in [p for p in self.priorities if self._outlived(p, now)]:
            del self._bands[priority]
            self._list_bands()

    @property
    def fairness_ids(self) -> int:
        """Distinct ids that count against the limit."""
        return len(self._ids)

    def _make_band(self, priority: int, now: float) -> None:
        settings = self._settings.bands.get(priority)
        if settings is None:
            negative = self._settings.negative
            settings = negative if priority < 0 and negative is not None else self._settings.default
        self._bands[priority] = Band(priority, settings, now)
        self._list_bands()

    def _list_bands(self) -> None:
        self.priorities = sorted(self._bands, reverse=True)
        self.bands = [self._bands[priority] for priority in self.priorities]

    def _outlived(self, priority: int, now: float) -> bool:
        if not priority or priority in self._provisioned or priority in self._settings.bands:
            return False
        band = self._bands[priority]
        busy = band.held.requests or band.in_flight or band.flows
        return not busy and now - band.idle_since >= self._settings.band_idle_s

    def _counts(self, fairness_id: str) -> bool:
        return fairness_id != DEFAULT_FLOW and fairness_id not in self._settings.known_ids

    def _may_have_own(self, fairness_id: str) -> bool:
        if not self._counts(fairness_id) or fairness_id in self._ids:
            return True
        settings = self._settings
        return len(fairness_id) <= settings.max_id_chars and len(self._ids) < settings.max_fairness_ids

    def _drop(self, flow: Flow) -> None:
        fairness_id = flow.fairness_id
        band = self._bands[flow.priority]
        del band.flows[fairness_id]
        band.shares.forget(flow)
        if self._counts(fairness_id):
            self._ids[fairness_id] -= 1
            if not self._ids[fairness_id]:
                del self._ids[fairness_id]
