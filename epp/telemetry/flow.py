"""The queues in numbers: who waits, how long it took, what became of it, and how full they are.

A request is counted when it leaves, and besides when it really has to wait; gauges are computed when read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from epp.domain.views import Clock
from epp.telemetry import table
from epp.telemetry.series import OTHER, Cell, Histogram, Key, Names

_Observe: TypeAlias = Callable[[float], None]

EFFECTIVE = "effective"
"""`stage` of the saturation that counts."""
_TIMED_OUT_S = 10.0


class Share(NamedTuple):
    """Of a limit, 0..1."""

    requests: float
    bytes: float


class QueuesView(Protocol):
    """Who knows how full the queues are."""

    def bands(self) -> Iterable[tuple[int, Share]]:
        """Of each priority."""

    def all(self) -> Share: ...

    def reclaim(self) -> tuple[float, float] | None:
        """Saturation to be given back, and still to come; None where nothing that runs is aborted."""


class SaturationView(Protocol):
    """Who knows how full the pool is."""

    def by_stage(self) -> Mapping[str, float]: ...

    def stale(self) -> int | None:
        """Endpoints that count as full because nothing is known of them; None for a detector that does not
        look at metrics."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """One pool's saturation, with queues and without."""

    pool: str
    detector: str
    source: SaturationView

    def read(self) -> tuple[tuple[str, list[Cell]], ...]:
        return (table.SATURATION.name, self._stages()), (table.STALE.name, self._stale())

    def _stages(self) -> list[Cell]:
        stages = self.source.by_stage()
        cells: list[Cell] = [((self.pool, stage), value) for stage, value in stages.items()]
        return [*cells, ((self.pool, EFFECTIVE), max(stages.values(), default=1.0))]

    def _stale(self) -> list[Cell]:
        count = self.source.stale()
        return [] if count is None else [((self.detector,), count)]


class QueueMeter:
    """Everything counted about requests of one (model, target model, fairness id, priority)."""

    __slots__ = ("_ended", "_flow", "bytes", "key", "outcomes", "used", "waiting")

    def __init__(self, flow: FlowMetrics, key: Key) -> None:
        self.key = key
        self._flow = flow
        self._ended: dict[str, tuple[_Observe, _Observe]] = {}
        """By outcome: how long it waited; how long it took to enqueue, which all models share."""
        self.outcomes: dict[str, Histogram] = {}
        """How long requests waited, by what became of them."""
        self.waiting = 0
        self.bytes = 0
        self.used = False
        """Something waited here, once."""

    def waits(self, size_bytes: int) -> None:
        """One could not go at once. Must be followed by exactly one `leaves` and one `ended`."""
        self.waiting += 1
        self.bytes += size_bytes
        self.used = True

    def leaves(self, size_bytes: int) -> None:
        self.waiting -= 1
        self.bytes -= size_bytes

    def ended(self, outcome: str, waited_s: float, enqueue_s: float) -> None:
        pair = self._ended.get(outcome)
        if pair is None:
            waits = self.outcomes[outcome] = Histogram(table.QUEUE_DURATION.bounds)
            pair = waits.observe, self._flow.totals.enqueue(self.key, outcome).observe
            self._ended[outcome] = pair
        pair[0](waited_s)
        pair[1](enqueue_s)


class FlowTotals:
    """What the queues of all pools count together, as its labels do not name the pool. `most`: label sets of
    all pools; from there on fairness ids are `other`, from twice that on all is."""

    def __init__(self, models: Names, flows: Names, most: int, most_of_a_pool: int) -> None:
        self.models = models
        self.flows = flows
        self.most = most
        self.most_of_a_pool = most_of_a_pool
        self.held = 0
        """Label sets of all pools."""
        self.cycles = Histogram(table.DISPATCH_CYCLE.bounds)
        self.enqueued: dict[Key, Histogram] = {}

    def enqueue(self, labels: Key, outcome: str) -> Histogram:
        flow, priority = labels[:2]
        return self.enqueued.setdefault((flow, priority, outcome), Histogram(table.ENQUEUE_DURATION.bounds))


class FlowMetrics:
    """The queues of one pool. Written by the event loop alone."""

    def __init__(self, pool: str, view: QueuesView, clock: Clock, totals: FlowTotals) -> None:
        self.pool = pool
        self.view = view
        self._clock = clock
        self.totals = totals
        self._meters: dict[tuple[str, str, str, int], QueueMeter] = {}
        self.known = self._meters.get
        """(model, target model, fairness id, priority) -> its meter, or None: then ask `meter`."""
        self._shown: dict[Key, QueueMeter] = {}
        """The same by their labels."""
        self.ran = totals.cycles.observe
        """One run over the queues took so many seconds."""
        self._aborted: dict[int, float] = {}
        """Aborted and not ended: number -> when."""
        self._confirmation = Histogram(table.REVOCATION_DURATION.bounds)
        self._issued: dict[int, int] = {}
        self._timed_out = 0
        self._closed = False
        self.timeout_s = _TIMED_OUT_S
        """An aborted request that has not ended by then has timed out."""

    # -- counting ----------------------------------------------------------------------------------------

    def meter(self, model: str, target_model: str, fairness_id: str, priority: int) -> QueueMeter:
        """The meter of these labels; what it is may change as limits are reached, so keep what you got."""
        found = self._meters.get((model, target_model, fairness_id, priority))
        return found or self._admit(model, target_model, fairness_id, priority)

    def _admit(self, model: str, target: str, flow: str, priority: int) -> QueueMeter:
        raw = (model, target, flow, priority)
        totals = self.totals
        model, target, flow = totals.models(model), totals.models(target), totals.flows(flow)
        if self._full(1):
            flow = OTHER
        labels = (flow, str(priority), self.pool, model, target)
        if labels not in self._shown and self._full(2):
            labels = (OTHER, OTHER, self.pool, OTHER, OTHER)
        meter = self._shown.get(labels)
        if meter is None:
            meter = QueueMeter(self, labels)
            if self._closed:
                return meter  # the last requests of a pool that is gone
            self._shown[labels] = meter
            totals.held += 1
            if raw == (model, target, flow, priority):
                # Names beyond the limits are no key of their own: clients make them up.
                self._meters[raw] = meter
        return meter

    def _full(self, times: int) -> bool:
        totals = self.totals
        return len(self._shown) >= times * totals.most_of_a_pool or totals.held >= times * totals.most

    def close(self) -> None:
        """Nothing of it is shown any more."""
        self._closed = True
        self.totals.held -= len(self._shown)
        self._shown.clear()
        self._meters.clear()

    def revoked(self, seq: int, demand: int, now: float) -> None:
        """A running request was told to end, for one of priority `demand` that waits."""
        self._issued[demand] = self._issued.get(demand, 0) + 1
        self._aborted[seq] = now

    def gone(self, seq: int, now: float) -> None:
        """A request that was told to end has ended."""
        at = self._aborted.pop(seq, None)
        if at is None:
            return
        if now - at >= self.timeout_s:
            self._timed_out += 1
        else:
            self._confirmation.observe(now - at)

    # -- reading -----------------------------------------------------------------------------------------

    def revocations(self) -> Mapping[str, int]:
        late = self._clock() - self.timeout_s
        for seq in [seq for seq, at in self._aborted.items() if at <= late]:
            del self._aborted[seq]
            self._timed_out += 1
        return {"confirmed": self._confirmation.count, "timed_out": self._timed_out}

    @property
    def issued(self) -> Mapping[int, int]:
        """Aborted requests by the priority for which they had to go."""
        return self._issued

    def sizes(self) -> list[Cell]:
        return [(meter.key, meter.waiting) for meter in self._shown.values() if meter.used]

    def bytes(self) -> list[Cell]:
        return [(meter.key, meter.bytes) for meter in self._shown.values() if meter.used]

    def durations(self) -> Iterable[Cell]:
        for meter in tuple(self._shown.values()):
            flow, priority, pool, model, target = meter.key
            for outcome, histogram in tuple(meter.outcomes.items()):
                yield (flow, priority, outcome, pool, model, target), histogram

    def outcomes(self) -> Iterable[Cell]:
        sums: dict[Key, int] = {}
        for meter in self._shown.values():
            for outcome, histogram in meter.outcomes.items():
                key = (outcome, meter.key[1], self.pool)
                sums[key] = sums.get(key, 0) + histogram.count
        return list(sums.items())

    def bands(self, which: int) -> list[Cell]:
        return [((str(priority), self.pool), share[which]) for priority, share in self.view.bands()]

    def all(self, which: int) -> list[Cell]:
        return [((self.pool,), self.view.all()[which])]

    def revoked_for(self) -> list[Cell]:
        return [((str(priority), self.pool), count) for priority, count in self._issued.items()]

    def reclaim(self, which: int) -> list[Cell]:
        amounts = self.view.reclaim()
        return [] if amounts is None else [((self.pool,), amounts[which])]

    def revocation_cells(self) -> list[Cell]:
        if self.view.reclaim() is None:
            return []
        return [((outcome, self.pool), count) for outcome, count in self.revocations().items()]

    def confirmations(self) -> list[Cell]:
        return [] if self.view.reclaim() is None else [((self.pool,), self._confirmation)]


FLOW_CELLS: Mapping[str, Callable[[FlowMetrics], Iterable[Cell]]] = {
    table.QUEUE_DURATION.name: FlowMetrics.durations,
    table.QUEUE_SIZE.name: FlowMetrics.sizes,
    table.QUEUE_BYTES.name: FlowMetrics.bytes,
    table.BAND_REQUESTS.name: lambda flow: flow.bands(0),
    table.BAND_BYTES.name: lambda flow: flow.bands(1),
    table.ALL_REQUESTS.name: lambda flow: flow.all(0),
    table.ALL_BYTES.name: lambda flow: flow.all(1),
    table.OUTCOMES.name: FlowMetrics.outcomes,
    table.REVOKED.name: FlowMetrics.revoked_for,
    table.REVOCATIONS.name: FlowMetrics.revocation_cells,
    table.RECLAIM_TARGET.name: lambda flow: flow.reclaim(0),
    table.RECLAIM_PENDING.name: lambda flow: flow.reclaim(1),
    table.REVOCATION_DURATION.name: FlowMetrics.confirmations,
}
"""Of each pool; the rest stands in FlowTotals."""
