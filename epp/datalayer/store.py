"""What is known of the pool: who is in it, by slot, and the frozen snapshot that decisions take.

One writer: everything here runs on the event loop. Writers mark what changed and the snapshot is built when
it is read, so a thousand scrapes between two decisions cost one build.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from epp.datalayer.load import Load
from epp.datalayer.signals import Signals, ascending
from epp.domain.endpoint import Endpoint, EndpointSpec
from epp.domain.snapshot import Bools, Ints, Snapshot, empty_snapshot
from epp.domain.views import EndpointObserver

MIN_STALE_AFTER_S = 0.2
STALE_INTERVALS = 3
SLOT_REST_S = 10.0
"""A freed slot is not given away sooner: a decision that waits for a producer may still name it."""


class Health(EndpointObserver, Protocol):
    """Who is avoided because real requests failed."""

    @property
    def version(self) -> int:
        """Changes whenever an answer of `available` may have."""

    def available(self, slots: Ints) -> Bools: ...

    def resize(self, endpoints: int) -> None:
        """How many endpoints the pool has now."""


class Store:
    """The pool. `observers` (and `health`) are told to forget a slot when it is freed and again when it is
    given to another endpoint."""

    def __init__(self, *, observers: Iterable[EndpointObserver] = (), health: Health | None = None) -> None:
        self._observers = [*observers, *([] if health is None else [health])]
        self._health = health
        self._by_slot: dict[int, Endpoint] = {}
        self._by_key: dict[str, Endpoint] = {}
        self._by_authority: dict[str, Endpoint] = {}
        self._rows: tuple[Endpoint, ...] = ()
        self._freed: deque[tuple[float, int]] = deque()
        """(freed_at, slot), oldest first."""
        self._next_slot = 0
        self._signals = Signals()
        self._snapshot = empty_snapshot()
        self._changed = False
        self._changed_at = 0.0
        self._health_version = -1
        self._available: Bools = np.zeros(0, dtype=np.bool_)
        self._stale_after_s = MIN_STALE_AFTER_S
        self.on_change: Callable[[], None] | None = None
        """Called when the next snapshot will be another."""
        self.on_pool_change: list[Callable[[], None]] = []
        """Each is called when endpoints have come, gone or changed."""
        self.synced = False
        """A discovery source has told the whole pool at least once."""

    def observe(self, observer: EndpointObserver) -> None:
        """Add a live view whose columns are by slot."""
        self._observers.append(observer)

    def set_endpoints(self, specs: Sequence[EndpointSpec], now: float) -> None:
        """The whole pool as it is now; addresses are IP literals.

        Who keeps namespace, name, address and ports keeps its slot and what is known of it. Of specs with the
        same namespace and name the last counts.
        """
        wanted = {f"{spec.namespace}/{spec.name}": spec for spec in specs}
        changed = False
        for key, endpoint in list(self._by_key.items()):
            spec = wanted.get(key)
            if spec is None or not _same_server(endpoint, spec):
                self._remove(key, endpoint, now)
                changed = True
        for key, spec in wanted.items():
            held = self._by_key.get(key)
            if held is None:
                self._put(key, spec, self._take_slot(now))
                changed = True
            elif held.labels is not spec.labels and dict(held.labels) != dict(spec.labels):
                self._put(key, spec, held.slot)
                changed = True
        if changed or not self.synced:
            self._pool_changed(now)
        self.synced = True

    def report(self, endpoint: Endpoint, load: Load, now: float) -> None:
        """A scrape of `endpoint` answered. Ignored when the endpoint has left the pool meanwhile."""
        if self._holds(endpoint):
            self._signals.report(endpoint.slot, load, now)
            self._mark(now)

    def set_models(self, endpoint: Endpoint, names: frozenset[str] | None, now: float) -> None:
        """Names that the endpoint serves; None when that is not known (any more)."""
        if self._holds(endpoint) and self._signals.set_models(endpoint.slot, names):
            self._mark(now)

    def set_scrape_interval(self, seconds: float) -> None:
        """Metrics older than three intervals, and than 200 ms, count as stale."""
        stale_after_s = max(MIN_STALE_AFTER_S, STALE_INTERVALS * seconds)
        if stale_after_s != self._stale_after_s:
            self._stale_after_s = stale_after_s
            self._changed = True

    @property
    def snapshot(self) -> Snapshot:
        """The pool as it is known now: the same object until something changes."""
        health = self._health
        if health is not None and health.version != self._health_version:
            self._health_version = health.version
            self._available = health.available(self._snapshot_slots())
            self._available.flags.writeable = False
            self._changed = True
        if self._changed:
            self._changed = False
            self._snapshot = self._signals.snapshot(
                self._snapshot.version + 1, self._changed_at, self._rows, self._available, self._stale_after_s
            )
        return self._snapshot

    @property
    def models_version(self) -> int:
        """Grows when an endpoint's models become others, or unknown."""
        return self._signals.models_version

    def models(self) -> frozenset[str]:
        """Every model that an endpoint is known to serve. Costs no snapshot."""
        return self._signals.every_model()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The pool in slot order."""
        return self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def by_authority(self, authority: str) -> Endpoint | None:
        """The endpoint with this `ip:port` (IPv6 in brackets), if it is in the pool."""
        return self._by_authority.get(authority)

    def _snapshot_slots(self) -> Ints:
        return ascending([endpoint.slot for endpoint in self._rows])

    def _pool_changed(self, now: float) -> None:
        self._rows = tuple(self._by_slot[slot] for slot in sorted(self._by_slot))
        self._by_authority = {endpoint.authority: endpoint for endpoint in self._rows}
        self._signals.rows(self._snapshot_slots())
        self._available = np.ones(len(self._rows), dtype=np.bool_)
        self._available.flags.writeable = False
        self._health_version = -1
        if self._health is not None:
            self._health.resize(len(self._rows))
        self._mark(now)
        for told in tuple(self.on_pool_change):
            told()

    def _mark(self, now: float) -> None:
        self._changed = True
        self._changed_at = now
        if self.on_change is not None:
            self.on_change()

    def _holds(self, endpoint: Endpoint) -> bool:
        current = self._by_slot.get(endpoint.slot)
        if current is endpoint:
            return True
        return (
            current is not None
            and current.key == endpoint.key
            and (current.ip, current.port, current.metrics_port)
            == (endpoint.ip, endpoint.port, endpoint.metrics_port)
        )

    def _put(self, key: str, spec: EndpointSpec, slot: int) -> None:
        endpoint = Endpoint(
            spec.name, spec.namespace, spec.address, spec.port, slot, spec.labels, _metrics_port(spec)
        )
        self._by_slot[slot] = self._by_key[key] = endpoint

    def _remove(self, key: str, endpoint: Endpoint, now: float) -> None:
        del self._by_key[key], self._by_slot[endpoint.slot]
        self._freed.append((now, endpoint.slot))
        self._forget(endpoint.slot)

    def _take_slot(self, now: float) -> int:
        if self._freed and now - self._freed[0][0] >= SLOT_REST_S:
            slot = self._freed.popleft()[1]
        else:
            slot = self._next_slot
            self._next_slot += 1
        self._signals.clear(slot)
        self._forget(slot)
        return slot

    def _forget(self, slot: int) -> None:
        for observer in self._observers:
            observer.forget(slot)


def _metrics_port(spec: EndpointSpec) -> int:
    return spec.port if spec.metrics_port is None else spec.metrics_port


def _same_server(endpoint: Endpoint, spec: EndpointSpec) -> bool:
    return (endpoint.ip, endpoint.port, endpoint.metrics_port) == (
        spec.address,
        spec.port,
        _metrics_port(spec),
    )
