"""Scrapes every endpoint of the store on an interval, each over one kept-open connection.

No task and no timer an endpoint: one loop wakes when scrapes are due and writes their requests; answers are
read where they arrive. An endpoint that fails is asked again after a growing pause; its last values stay, and
age.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random

from epp.datalayer.connection import MAX_BODY_BYTES, Connection, HttpSource
from epp.datalayer.counting import FirstTokens, Reachability, Uncounted
from epp.datalayer.counting import ScrapeErrors as ScrapeErrors
from epp.datalayer.engines import Engine, Reader
from epp.datalayer.engines import EngineChoice as EngineChoice
from epp.datalayer.pace import Pace
from epp.datalayer.store import Store
from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import NEVER
from epp.domain.views import Clock

SOURCE = "metrics-data-source"
EXTRACTOR = "core-metrics-extractor"
DEADLINE_S = 1.0
"""An answer that takes longer is given up, with its connection (the reference's)."""
JITTER = 0.1
BACK_OFF_S = 0.1
BACK_OFF_CAP_S = 5.0
_MIN_SLEEP_S = 0.002
"""The loop wakes no oftener: at 5,000 scrapes a second ten are sent at a time."""
_MAX_SLEEP_S = 0.05
"""The loop wakes no rarer, to see that the pool changed."""
_AHEAD_S = 0.02
"""Who is due so soon goes along, since waking an idle process costs more than a scrape ..."""
_TOGETHER = 8
"""... but only so many at once: a decision may be waiting for the loop."""
_MEASURE_S = 0.5
_LATE_S = 0.1
_PATIENCE_S = 0.2
"""After the loop itself was held up so long, answers may lie unread: nobody is given up for so long."""
_CONNECT_S = 1e-3
"""New endpoints are connected to at most so close upon each other: it costs 0.3 ms each."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScrapeState:
    """How scraping goes, for logs and metrics. Ages are of endpoints that answered at least once."""

    endpoints: int
    answering: int
    """Endpoints whose last scrape succeeded."""
    interval_s: float
    cost_s: float
    """CPU seconds a scrape."""
    share: float
    """Share of one core."""
    mean_age_s: float
    max_age_s: float


class _Target:
    """One endpoint's scraping. Asker of its connection."""

    __slots__ = (
        "asked_at", "connecting", "connection", "endpoint", "failures", "gone", "lying", "reader", "refused",
        "request", "scraper", "seen_at", "waiting",
    )  # fmt: skip

    def __init__(self, scraper: Scraper, endpoint: Endpoint, engine: Engine, request: bytes) -> None:
        self.scraper = scraper
        self.endpoint = endpoint
        self.reader = Reader(engine)
        self.request = request
        self.connection: Connection | None = None
        self.connecting = False
        self.waiting = False
        """An answer is awaited since asked_at."""
        self.asked_at = 0.0
        self.seen_at = NEVER
        self.failures = 0
        self.gone = False
        self.lying = False
        self.refused = False

    def answered(self, status: int, body: bytes) -> None:
        self.scraper._answered(self, status, body)

    def failed(self, why: str) -> None:
        self.scraper._failed(self, why)


class Scraper:
    """Own `run` in a task group; everything else may be called from the same loop."""

    def __init__(
        self,
        store: Store,
        *,
        source: HttpSource | None = None,
        engines: EngineChoice | None = None,
        pace: Pace | None = None,
        errors: ScrapeErrors | None = None,
        reachability: Reachability | None = None,
        first_tokens: FirstTokens | None = None,
        rng: Random | None = None,
        clock: Clock = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
        deadline_s: float = DEADLINE_S,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        """Raises OSError when a TLS file of `source` cannot be used."""
        self._store = store
        self._source = source or HttpSource()
        self._tls = self._source.tls()
        self._engines = engines or EngineChoice()
        self.pace = pace or Pace()
        self._errors = errors or Uncounted()
        self._reachability = reachability
        self._first_tokens = first_tokens
        self._rng = rng or Random()
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._deadline_s = deadline_s
        self._max_body_bytes = max_body_bytes
        self._targets: dict[int, _Target] = {}
        self._due: list[tuple[float, int, _Target]] = []
        self._order = count()
        self._pool_version = -1
        self._cpu_s = 0.0
        self._scrapes = 0
        self._measured_at = NEVER
        self._told_interval_s = 0.0
        self._patient_until = NEVER
        self.scrapes = 0
        """Answers read so far."""

    async def run(self) -> None:
        """Runs until cancelled, then closes every connection."""
        try:
            async with asyncio.TaskGroup() as connecting:
                while True:
                    began = self._cpu_clock()
                    now = self._clock()
                    if self._store.pool_version != self._pool_version:
                        self._follow_pool(now)
                    ahead = now + min(_AHEAD_S, JITTER * self.pace.interval_s)
                    turns = 0
                    while self._due and self._due[0][0] <= (ahead if turns < _TOGETHER else now):
                        self._turn(heappop(self._due)[2], now, connecting)
                        turns += 1
                    wake_at = self._due[0][0] if self._due else now + _MAX_SLEEP_S
                    pause_s = min(_MAX_SLEEP_S, max(_MIN_SLEEP_S, wake_at - now))
                    self._cpu_s += self._cpu_clock() - began
                    if now - self._measured_at >= _MEASURE_S:
                        self._measure(now)
                    await asyncio.sleep(pause_s)
                    woken_at = self._clock()
                    if woken_at - now - pause_s > _LATE_S:
                        self._patient_until = woken_at + _PATIENCE_S
        finally:
            for target in self._targets.values():
                self._drop(target)
            self._targets.clear()
            self._due.clear()
            self._pool_version = -1

    def state(self, now: float) -> ScrapeState:
        """How scraping goes at `now`."""
        targets = self._targets.values()
        ages = [now - target.seen_at for target in targets if target.seen_at != NEVER]
        return ScrapeState(
            endpoints=len(self._targets),
            answering=sum(target.seen_at != NEVER and not target.failures for target in targets),
            interval_s=self.pace.interval_s,
            cost_s=self.pace.cost_s,
            share=self.pace.share,
            mean_age_s=sum(ages) / len(ages) if ages else 0.0,
            max_age_s=max(ages, default=0.0),
        )

    # Inside

    def _follow_pool(self, now: float) -> None:
        self._pool_version = self._store.pool_version
        endpoints = {endpoint.slot: endpoint for endpoint in self._store.endpoints}
        for slot, target in list(self._targets.items()):
            # The store makes a new Endpoint whenever anything of it changed, its labels included.
            if endpoints.get(slot) is not target.endpoint:
                self._drop(target)
                del self._targets[slot]
        self.pace.resize(len(endpoints))
        self._tell_interval()
        new = [endpoint for slot, endpoint in endpoints.items() if slot not in self._targets]
        spread_s = min(self.pace.interval_s, len(new) * _CONNECT_S)
        for endpoint in new:
            request = self._source.request(_authority(endpoint, self._port(endpoint)))
            target = _Target(self, endpoint, self._engines.of(endpoint), request)
            self._targets[endpoint.slot] = target
            self._schedule(target, now + self._rng.random() * spread_s)

    def _port(self, endpoint: Endpoint) -> int:
        return self._source.port or endpoint.metrics_port or endpoint.port

    def _schedule(self, target: _Target, at: float) -> None:
        heappush(self._due, (at, next(self._order), target))

    def _turn(self, target: _Target, now: float, connecting: asyncio.TaskGroup) -> None:
        if target.gone:
            return
        if target.connecting:
            pass  # it has its own deadline
        elif target.waiting:
            if now - target.asked_at >= self._deadline_s and now >= self._patient_until:
                self._failed(target, f"no answer in {self._deadline_s:g} s")
        elif target.connection is not None and target.connection.ready:
            target.waiting, target.asked_at = True, now
            target.connection.ask()
        else:
            target.connecting = True
            connecting.create_task(self._connect(target))
        pause_s = self.pace.interval_s
        if target.failures:
            pause_s = max(pause_s, min(BACK_OFF_CAP_S, BACK_OFF_S * 2 ** min(target.failures - 1, 16)))
        if target.waiting:
            pause_s = min(pause_s, self._deadline_s)
        self._schedule(target, now + pause_s * self._rng.uniform(1 - JITTER, 1 + JITTER))

    async def _connect(self, target: _Target) -> None:
        endpoint = target.endpoint
        connection = Connection(target.request, target, self._max_body_bytes)
        began_at = self._clock()
        try:
            async with asyncio.timeout(self._deadline_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    endpoint.ip,
                    self._port(endpoint),
                    ssl=self._tls,
                    server_hostname=endpoint.ip if self._tls is not None else None,
                )
        except TimeoutError:
            if self._clock() - began_at > self._deadline_s + _LATE_S:
                return  # it was we who were held up: tried again at the next turn
            self._failed(target, f"not connected in {self._deadline_s:g} s")
            return
        except (OSError, ValueError) as error:
            if isinstance(error, ConnectionRefusedError):
                self._refused(target)
            self._failed(target, f"cannot connect: {error}")
            return
        finally:
            target.connecting = False
        if target.gone:
            connection.close()
        elif not connection.connected:
            self._failed(target, "closed when connected")
        else:
            target.connection = connection
            target.waiting, target.asked_at = True, self._clock()
            connection.ask()

    def _answered(self, target: _Target, status: int, body: bytes) -> None:
        if status != 200:
            self._failed(target, f"answered {status}")
            return
        began = self._cpu_clock()
        now = self._clock()
        load = target.reader.read(body)
        self._store.report(target.endpoint, load, now)
        if self._first_tokens is not None and self._first_tokens.wants_counts:
            counted = target.reader.first_tokens(body)
            if counted is not None:
                self._first_tokens.first_tokens(target.endpoint.slot, *counted, now)
        if load.missing or load.lies:
            for _ in range(len(load.missing) + len(load.lies)):
                self._errors.extract_errors(SOURCE, EXTRACTOR)
        if bool(load.lies) != target.lying:
            self._tell_lies(target, load.lies)
        if target.failures:
            _log.info("scraping %s works again", target.endpoint.key)
        if target.refused and self._reachability is not None:
            target.refused = False
            self._reachability.listens(target.endpoint)
        target.failures = 0
        target.waiting = False
        target.seen_at = now
        if target.connection is not None and not target.connection.connected:
            target.connection = None
        self.scrapes += 1
        self._scrapes += 1
        self._cpu_s += self._cpu_clock() - began

    def _tell_lies(self, target: _Target, lies: tuple[str, ...]) -> None:
        target.lying = bool(lies)
        if lies:
            _log.warning(
                "%s reports impossible values for %s: kept the last ones",
                target.endpoint.key,
                ", ".join(lies),
            )

    def _failed(self, target: _Target, why: str) -> None:
        if target.gone:
            return
        self._errors.poll_errors(SOURCE)
        if not target.failures:
            _log.warning("scraping %s failed: %s", target.endpoint.key, why)
        target.failures += 1
        target.waiting = False
        if target.connection is not None:
            target.connection.close()
            target.connection = None

    def _refused(self, target: _Target) -> None:
        """Nobody listens where requests would go: they need not find that out themselves."""
        endpoint = target.endpoint
        if self._reachability is not None and not target.gone and self._port(endpoint) == endpoint.port:
            target.refused = True
            self._reachability.refused(endpoint)

    def _drop(self, target: _Target) -> None:
        target.gone = True
        if target.connection is not None:
            target.connection.close()
            target.connection = None

    def _measure(self, now: float) -> None:
        self.pace.spent(self._cpu_s, self._scrapes)
        self._cpu_s, self._scrapes, self._measured_at = 0.0, 0, now
        self._tell_interval()

    def _tell_interval(self) -> None:
        interval_s = self.pace.interval_s
        if interval_s == self._told_interval_s:
            return
        self._told_interval_s = interval_s
        self._store.set_scrape_interval(interval_s)


def _authority(endpoint: Endpoint, port: int) -> str:
    return f"[{endpoint.ip}]:{port}" if ":" in endpoint.ip else f"{endpoint.ip}:{port}"
