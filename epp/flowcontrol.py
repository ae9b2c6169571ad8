"""Builds the queues of a configuration, ties them to what wakes them, and counts what becomes of requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from epp.admission.control import FlowControl
from epp.admission.limits import Held, Limits
from epp.admission.saturation import UtilizationParameters
from epp.admission.stages import StagedDetector
from epp.admission.ticket import Outcome
from epp.config.loaded import Loaded
from epp.domain.request import Request
from epp.domain.units import duration_s
from epp.domain.views import Clock, InflightView, SnapshotSource
from epp.queues import Entry, Place, Queues
from epp.telemetry.flow import FlowMetrics, QueueMeter, Share
from epp.telemetry.metrics import Metrics
from epp.web.flow import FlowPage


def open_queues(
    loaded: Loaded, *, store: SnapshotSource, ledger: InflightView, clock: Clock, chance: Random
) -> Queues | None:
    """None where the feature gate `flowControl` is closed: then the gate alone decides.

    Whoever owns them calls `changed` when there is a new snapshot, and `provision` with the priorities.
    """
    if loaded.flow is None:
        return None
    control: FlowControl[Place] = FlowControl(loaded.flow, clock())
    detector = StagedDetector(loaded.detector.plugin)
    return Queues(control, detector, store=store, inflight=ledger, clock=clock, chance=chance.random)


def show_flow(
    loaded: Loaded,
    queues: Queues | None,
    *,
    metrics: Metrics,
    pool: str,
    store: SnapshotSource,
    inflight: InflightView,
    clock: Clock,
) -> FlowPage:
    """Counts into `metrics` from now on, and gives the page that shows the queues as they are."""
    detector = StagedDetector(loaded.detector.plugin) if queues is None else queues.detector
    load = PoolLoad(detector, _stale_after_s(loaded), store, inflight, clock)
    metrics.watch_saturation(pool, loaded.detector.name, load)
    if queues is None or loaded.flow is None:
        return FlowPage(load, loaded.detector.name, clock)
    metrics.pin_flows(loaded.flow.registry.known_ids, pool=pool)
    flow = metrics.flow_control(pool, QueueShares(queues.control), clock)
    if loaded.flow.eviction is not None:
        flow.timeout_s = loaded.flow.eviction.timeout_s
    count(queues, flow)
    names = {id(step.plugin): step.name for step in loaded.policies}
    return FlowPage(load, loaded.detector.name, clock, queues, loaded.flow, names, flow)


def _stale_after_s(loaded: Loaded) -> float | None:
    """None for a detector that does not look at the age of metrics."""
    name = loaded.detector.name
    parameters = next((one.parameters for one in loaded.instances if one.name == name), None)
    if not isinstance(parameters, UtilizationParameters):
        return None
    return duration_s(parameters.metrics_staleness_threshold)


def count(queues: Queues, flow: FlowMetrics) -> None:
    """Every request that comes to the queues is counted once, when it leaves them or is not let in."""

    known, meter = flow.known, flow.meter

    def meter_of(ticket: Entry) -> QueueMeter:
        request = ticket.waiter.request
        key = (request.model, request.target_model, request.fairness_id, ticket.flow.priority)
        return known(key) or meter(*key)

    def waits(ticket: Entry) -> None:
        found = ticket.waiter.meter = meter_of(ticket)
        found.waits(ticket.size_bytes)

    def left(ticket: Entry) -> None:
        place = ticket.waiter
        found = place.meter
        if found is None:
            found = meter_of(ticket)
        else:
            found.leaves(ticket.size_bytes)
        outcome = ticket.outcome
        assert outcome is not None
        found.ended(outcome, ticket.left_at - ticket.enqueued_at, place.enqueue_s)

    def refused(
        outcome: Outcome, priority: int, fairness_id: str, request: Request | None, seconds: float
    ) -> None:
        band = queues.control.registry.band(priority).priority
        model, target = ("", "") if request is None else (request.model, request.target_model)
        meter(model, target, fairness_id, band).ended(outcome, 0.0, seconds)

    def evicted(tickets: Sequence[Entry], now: float) -> None:
        # Highest first, and above the highest that waits nothing was held back.
        demand = next(band.priority for band in queues.control.registry.bands if band.held.requests)
        for ticket in tickets:
            flow.revoked(ticket.seq, demand, now)

    queues.on_waits = waits
    queues.on_left = left
    queues.on_refused = refused
    queues.on_evicted = evicted
    queues.on_over = lambda ticket, now: flow.gone(ticket.seq, now)
    queues.on_run = flow.ran


class QueueShares:
    """A QueuesView."""

    def __init__(self, control: FlowControl[Place]) -> None:
        self._control = control

    def bands(self) -> Iterable[tuple[int, Share]]:
        every = self._control.held.limits
        return [(band.priority, _share(band.held, every)) for band in self._control.registry.bands]

    def all(self) -> Share:
        held = self._control.held
        return Share(held.share_of_requests, held.share_of_bytes)

    def reclaim(self) -> tuple[float, float] | None:
        reclaim = self._control.reclaim
        return None if reclaim is None else (reclaim.target, reclaim.pending)


def _share(held: Held, every: Limits) -> Share:
    """Of the band's own limits; where it has none, of those of all bands."""
    whole = Held(every)
    whole.requests, whole.bytes = held.requests, held.bytes
    own = held.limits
    return Share(
        whole.share_of_requests if own.max_requests is None else held.share_of_requests,
        whole.share_of_bytes if own.max_bytes is None else held.share_of_bytes,
    )


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """A SaturationView: the whole pool, as the queues see it."""

    detector: StagedDetector
    stale_after_s: float | None
    store: SnapshotSource
    inflight: InflightView
    clock: Clock

    def by_stage(self) -> Mapping[str, float]:
        snapshot = self.store.snapshot
        return self.detector.by_stage(snapshot, snapshot.every, self.inflight, self.clock())

    def stale(self) -> int | None:
        if self.stale_after_s is None:
            return None
        snapshot = self.store.snapshot
        since = self.clock() - max(self.stale_after_s, snapshot.stale_after_s)
        return int(np.count_nonzero(snapshot.scraped_at < since))
