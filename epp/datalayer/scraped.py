"""One pool's part in scraping: its endpoints, each with its kept-open connection. `Scraper` says when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from epp.datalayer.connection import Connection, HttpSource
from epp.datalayer.counting import FirstTokens, Reachability, ScrapeErrors
from epp.datalayer.engines import EngineChoice, Reader
from epp.datalayer.pace import Pace
from epp.datalayer.store import Store
from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import NEVER
from epp.domain.views import Clock

SOURCE = "metrics-data-source"
EXTRACTOR = "core-metrics-extractor"
LATE_S = 0.1
"""The loop itself was held up, when it comes so much later than it wanted."""
_log = logging.getLogger("epp.datalayer.scrape")


@dataclass(frozen=True, slots=True)
class ScrapeState:
    """How scraping goes, for logs and metrics. Ages are of endpoints that answered at least once."""

    endpoints: int
    answering: int
    """Endpoints whose last scrape succeeded."""
    interval_s: float
    """Of several pools the longest."""
    cost_s: float
    """CPU seconds a scrape."""
    share: float
    """Share of one core, of all pools together."""
    mean_age_s: float
    max_age_s: float


class Costs(Protocol):
    """What the pools of a process share."""

    pace: Pace
    clock: Clock
    cpu_clock: Callable[[], float]
    deadline_s: float
    max_body_bytes: int

    def scraped(self, cpu_s: float) -> None:
        """An answer was read."""

    def followed(self, joined: Joined) -> None:
        """The pool's endpoints are others than they were."""

    def left(self, joined: Joined) -> None: ...


class Target:
    """One endpoint's scraping. Asker of its connection."""

    __slots__ = (
        "asked_at", "connecting", "connection", "due_at", "endpoint", "failures", "gone", "lying", "pool",
        "port", "reader", "refused", "request", "seen_at", "waiting",
    )  # fmt: skip

    def __init__(self, pool: Joined, endpoint: Endpoint, due_at: float) -> None:
        source = pool.source
        self.pool = pool
        self.endpoint = endpoint
        self.port = source.port or endpoint.metrics_port or endpoint.port
        self.reader = Reader(pool.engines.of(endpoint))
        self.request = source.request(_authority(endpoint, self.port))
        self.connection: Connection | None = None
        self.connecting = False
        self.waiting = False
        """An answer is awaited since asked_at."""
        self.asked_at = 0.0
        self.due_at = due_at
        """When it is asked next."""
        self.seen_at = NEVER
        self.failures = 0
        self.gone = False
        self.lying = False
        self.refused = False

    def ask(self, now: float) -> bool:
        """Whether there is a connection to ask over."""
        connection = self.connection
        if connection is None or not connection.ready:
            return False
        self.waiting, self.asked_at = True, now
        connection.ask()
        return True

    async def connect(self) -> None:
        """And ask. Without `connecting` set before it is not to be called."""
        pool, endpoint = self.pool, self.endpoint
        shared = pool.shared
        connection = Connection(self.request, self, shared.max_body_bytes)
        began_at = shared.clock()
        try:
            tls = pool.source.tls()
            async with asyncio.timeout(shared.deadline_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    endpoint.ip,
                    self.port,
                    ssl=tls,
                    server_hostname=pool.source.server_hostname(endpoint.ip),
                )
        except TimeoutError:
            if shared.clock() - began_at > shared.deadline_s + LATE_S:
                return  # it was we who were held up: tried again at the next turn
            self.failed(f"not connected in {shared.deadline_s:g} s")
            return
        except (OSError, ValueError) as error:
            if isinstance(error, ConnectionRefusedError):
                self._refused()
            self.failed(f"cannot connect: {error}")
            return
        finally:
            self.connecting = False
        if self.gone:
            connection.close()
        elif not connection.connected:
            self.failed("closed when connected")
        else:
            self.connection = connection
            self.ask(shared.clock())

    def answered(self, status: int, body: bytes) -> None:
        if status != 200:
            self.failed(f"answered {status}")
            return
        pool = self.pool
        shared = pool.shared
        began, now = shared.cpu_clock(), shared.clock()
        load = self.reader.read(body)
        pool.store.report(self.endpoint, load, now)
        if pool.first_tokens is not None and pool.first_tokens.wants_counts:
            counted = self.reader.first_tokens(body)
            if counted is not None:
                pool.first_tokens.first_tokens(self.endpoint.slot, *counted, now)
        if load.missing or load.lies:
            for _ in range(len(load.missing) + len(load.lies)):
                pool.errors.extract_errors(SOURCE, EXTRACTOR)
        if bool(load.lies) != self.lying:
            self._tell_lies(load.lies)
        if self.failures:
            _log.info("scraping %s works again", self.endpoint.key)
        if self.refused and pool.reachability is not None:
            self.refused = False
            pool.reachability.listens(self.endpoint)
        self.failures = 0
        self.waiting = False
        self.seen_at = now
        if self.connection is not None and not self.connection.connected:
            self.connection = None
        shared.scraped(shared.cpu_clock() - began)

    def failed(self, why: str) -> None:
        if self.gone:
            return
        self.pool.errors.poll_errors(SOURCE)
        if not self.failures:
            _log.warning("scraping %s failed: %s", self.endpoint.key, why)
        self.failures += 1
        self.waiting = False
        self._close()

    def drop(self) -> None:
        """The endpoint is gone, or its pool."""
        self.gone = True
        self._close()

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _refused(self) -> None:
        """Nobody listens where requests would go: they need not find that out themselves."""
        reachability = self.pool.reachability
        if reachability is not None and not self.gone and self.port == self.endpoint.port:
            self.refused = True
            reachability.refused(self.endpoint)

    def _tell_lies(self, lies: tuple[str, ...]) -> None:
        self.lying = bool(lies)
        if lies:
            _log.warning(
                "%s reports impossible values for %s: kept the last ones", self.endpoint.key, ", ".join(lies)
            )


class Joined:
    """A pool that is scraped until it leaves. Made by `Scraper.join`."""

    def __init__(
        self,
        shared: Costs,
        store: Store,
        *,
        source: HttpSource,
        engines: EngineChoice,
        interval_s: float,
        errors: ScrapeErrors,
        reachability: Reachability | None,
        first_tokens: FirstTokens | None,
    ) -> None:
        self.shared = shared
        self.store = store
        self.source = source
        self.engines = engines
        self.base_s = interval_s
        self.errors = errors
        self.reachability = reachability
        self.first_tokens = first_tokens
        self.targets: dict[int, Target] = {}
        """By slot."""
        store.on_pool_change.append(self._pool_changed)

    def leave(self) -> None:
        """Closes its connections; the store is told nothing more."""
        if self._pool_changed in self.store.on_pool_change:
            self.store.on_pool_change.remove(self._pool_changed)
            self.shared.left(self)

    def state(self, now: float) -> ScrapeState:
        """How scraping of this pool goes at `now`."""
        pace = self.shared.pace
        return state_of(self.targets.values(), now, pace.interval_s(self.base_s), pace)

    @property
    def asked(self) -> bool:
        """Every endpoint has answered, or failed to, at least once."""
        targets = self.targets
        return len(targets) == len(self.store) and all(
            target.seen_at != NEVER or target.failures for target in targets.values()
        )

    def _pool_changed(self) -> None:
        self.shared.followed(self)


def state_of(targets: Iterable[Target], now: float, interval_s: float, pace: Pace) -> ScrapeState:
    targets = tuple(targets)
    ages = [now - target.seen_at for target in targets if target.seen_at != NEVER]
    return ScrapeState(
        endpoints=len(targets),
        answering=sum(target.seen_at != NEVER and not target.failures for target in targets),
        interval_s=interval_s,
        cost_s=pace.cost_s,
        share=pace.share,
        mean_age_s=sum(ages) / len(ages) if ages else 0.0,
        max_age_s=max(ages, default=0.0),
    )


def _authority(endpoint: Endpoint, port: int) -> str:
    return f"[{endpoint.ip}]:{port}" if ":" in endpoint.ip else f"{endpoint.ip}:{port}"
