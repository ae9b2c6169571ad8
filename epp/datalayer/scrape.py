"""Scrapes every endpoint of every pool on its interval, each over one kept-open connection.

No task and no timer an endpoint or a pool: one loop wakes when scrapes are due and writes their requests;
answers are read where they arrive. An endpoint that fails is asked again after a growing pause; its last
values stay, and age. A CPU budget is kept over all pools together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import chain, count, islice
from random import Random

from epp.datalayer.connection import MAX_BODY_BYTES, HttpSource
from epp.datalayer.counting import FirstTokens, Reachability, Uncounted
from epp.datalayer.counting import ScrapeErrors as ScrapeErrors
from epp.datalayer.engines import EngineChoice as EngineChoice
from epp.datalayer.pace import DEFAULT_INTERVAL_S, Pace
from epp.datalayer.scraped import EXTRACTOR as EXTRACTOR
from epp.datalayer.scraped import LATE_S, Joined, ScrapeState, Target, state_of
from epp.datalayer.scraped import SOURCE as SOURCE
from epp.datalayer.store import Store
from epp.domain.snapshot import NEVER
from epp.domain.views import Clock

DEADLINE_S = 1.0
"""An answer that takes longer is given up, with its connection (the reference's)."""
JITTER = 0.1
BACK_OFF_S = 0.1
BACK_OFF_CAP_S = 5.0
_MIN_SLEEP_S = 0.002
"""The loop wakes no oftener: at 5,000 scrapes a second ten are sent at a time."""
_MAX_SLEEP_S = 0.05
"""The loop wakes no rarer while there are endpoints, to see that pools changed."""
_AHEAD_S = 0.02
"""Who is due so soon goes along, since waking an idle process costs more than a scrape ..."""
_TOGETHER = 8
"""... but only so many at once: a decision may be waiting for the loop."""
_MEASURE_S = 0.5
_PATIENCE_S = 0.2
"""After the loop itself was held up so long, answers may lie unread: nobody is given up for so long."""
_CONNECT_S = 1e-3
"""New endpoints are connected to at most so close upon each other: it costs 0.3 ms each."""
_POOLS_AT_ONCE = 16
"""Changed pools that are looked at before the loop lets others run."""


class Scraper:
    """Own `run` in a task group; everything else may be called from the same loop, before it runs too."""

    def __init__(
        self,
        *,
        pace: Pace | None = None,
        rng: Random | None = None,
        clock: Clock = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
        deadline_s: float = DEADLINE_S,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.pace = pace or Pace()
        self.clock = clock
        self.cpu_clock = cpu_clock
        self.deadline_s = deadline_s
        self.max_body_bytes = max_body_bytes
        self._rng = rng or Random()
        self._pools: dict[Joined, None] = {}
        self._changed: dict[Joined, None] = {}
        """Pools whose endpoints are to be looked at, in the order of their changes."""
        self._due: list[tuple[float, int, Target]] = []
        self._order = count()
        self._woken = asyncio.Event()
        self._connected_until = NEVER
        """Connecting those who came is planned up to here."""
        self._cpu_s = 0.0
        self._scrapes = 0
        self._measured_at = NEVER
        self._told_stretch = 0.0
        self._patient_until = NEVER
        self.scrapes = 0
        """Answers read so far."""

    def join(
        self,
        store: Store,
        *,
        source: HttpSource | None = None,
        engines: EngineChoice | None = None,
        interval_s: float = DEFAULT_INTERVAL_S,
        errors: ScrapeErrors | None = None,
        reachability: Reachability | None = None,
        first_tokens: FirstTokens | None = None,
    ) -> Joined:
        """Scrape the endpoints of this store from now on, whoever they are.

        Raises OSError when a TLS file of `source` cannot be used.
        """
        source = source or HttpSource()
        source.tls()
        joined = Joined(
            self,
            store,
            source=source,
            engines=engines or EngineChoice(),
            interval_s=interval_s,
            errors=errors or Uncounted(),
            reachability=reachability,
            first_tokens=first_tokens,
        )
        self._pools[joined] = None
        store.set_scrape_interval(self.pace.interval_s(interval_s))
        self.followed(joined)
        return joined

    async def run(self) -> None:
        """Runs until cancelled, then closes every connection."""
        try:
            async with asyncio.TaskGroup() as connecting:
                while True:
                    began = self.cpu_clock()
                    now = self.clock()
                    if self._changed:
                        self._follow_pools(now)
                    ahead_s = min(_AHEAD_S, JITTER * self.pace.shortest_s)
                    turns = 0
                    while self._due and self._due[0][0] <= (now + ahead_s if turns < _TOGETHER else now):
                        self._turn(heappop(self._due)[2], now, ahead_s, connecting)
                        turns += 1
                    wake_at = self._due[0][0] if self._due and not self._changed else now
                    pause_s = min(_MAX_SLEEP_S, max(_MIN_SLEEP_S, wake_at - now))
                    self._cpu_s += self.cpu_clock() - began
                    if now - self._measured_at >= _MEASURE_S:
                        self._measure(now)
                    await self._pause(now, pause_s)
        finally:
            for joined in self._pools:
                self._drop_all(joined)
                self._changed[joined] = None
            self._due.clear()

    def state(self, now: float) -> ScrapeState:
        """How scraping of all pools goes at `now`; looks at every endpoint."""
        targets = chain.from_iterable(joined.targets.values() for joined in self._pools)
        return state_of(targets, now, self.interval_s, self.pace)

    @property
    def interval_s(self) -> float:
        """The longest of any pool; 0 without endpoints."""
        return self.pace.longest_s

    # -- what the pools call -----------------------------------------------------------------------------

    def scraped(self, cpu_s: float) -> None:
        self.scrapes += 1
        self._scrapes += 1
        self._cpu_s += cpu_s

    def followed(self, joined: Joined) -> None:
        self._changed[joined] = None
        self._woken.set()

    def left(self, joined: Joined) -> None:
        self._pools.pop(joined, None)
        self._changed.pop(joined, None)
        self._drop_all(joined)

    # -- inside ------------------------------------------------------------------------------------------

    async def _pause(self, now: float, pause_s: float) -> None:
        if not self._due and not self._changed:
            self._woken.clear()
            await self._woken.wait()
            return
        await asyncio.sleep(pause_s)
        woken_at = self.clock()
        if woken_at - now - pause_s > LATE_S:
            self._patient_until = woken_at + _PATIENCE_S

    def _follow_pools(self, now: float) -> None:
        changed = tuple(islice(self._changed, _POOLS_AT_ONCE))
        for joined in changed:
            del self._changed[joined]
        came = [target for joined in changed for target in self._follow(joined, now)]
        self._tell_intervals()
        start_at = max(now, self._connected_until)
        longest_s = max((self.pace.interval_s(joined.base_s) for joined in changed), default=0.0)
        spread_s = min(longest_s, len(came) * _CONNECT_S)
        self._connected_until = start_at + spread_s
        for target in came:
            target.due_at = start_at + self._rng.random() * spread_s
            self._schedule(target, target.due_at)

    def _follow(self, joined: Joined, now: float) -> list[Target]:
        """Those who came."""
        targets = joined.targets
        before = len(targets)
        endpoints = {endpoint.slot: endpoint for endpoint in joined.store.endpoints}
        for slot, target in list(targets.items()):
            # The store makes a new Endpoint whenever anything of it changed, its labels included.
            if endpoints.get(slot) is not target.endpoint:
                target.drop()
                del targets[slot]
        came = [Target(joined, endpoint, now) for slot, endpoint in endpoints.items() if slot not in targets]
        targets.update((target.endpoint.slot, target) for target in came)
        if len(targets) != before:
            self.pace.resize(joined.base_s, len(targets) - before)
        return came

    def _schedule(self, target: Target, at: float) -> None:
        heappush(self._due, (at, next(self._order), target))

    def _turn(self, target: Target, now: float, ahead_s: float, connecting: asyncio.TaskGroup) -> None:
        if target.gone:
            return
        if target.waiting and now - target.asked_at >= self.deadline_s and now >= self._patient_until:
            target.failed(f"no answer in {self.deadline_s:g} s")
            target.due_at = now + self._rest_s(target)
        elif target.due_at <= now + ahead_s:
            if not (target.waiting or target.connecting or target.ask(now)):
                target.connecting = True
                connecting.create_task(target.connect())
            target.due_at = now + self._rest_s(target)
        at = target.due_at
        if target.waiting or target.connecting:
            given_up_at = (target.asked_at if target.waiting else now) + self.deadline_s
            at = min(at, max(given_up_at, now + _MIN_SLEEP_S) + ahead_s)
        self._schedule(target, at)

    def _rest_s(self, target: Target) -> float:
        rest_s = self.pace.interval_s(target.pool.base_s)
        if target.failures:
            rest_s = max(rest_s, min(BACK_OFF_CAP_S, BACK_OFF_S * 2 ** min(target.failures - 1, 16)))
        return rest_s * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def _drop_all(self, joined: Joined) -> None:
        for target in joined.targets.values():
            target.drop()
        if joined.targets:
            self.pace.resize(joined.base_s, -len(joined.targets))
            joined.targets.clear()

    def _measure(self, now: float) -> None:
        self.pace.spent(self._cpu_s, self._scrapes)
        self._cpu_s, self._scrapes, self._measured_at = 0.0, 0, now
        self._tell_intervals()

    def _tell_intervals(self) -> None:
        if self.pace.stretch == self._told_stretch:
            return
        self._told_stretch = self.pace.stretch
        for joined in self._pools:
            joined.store.set_scrape_interval(self.pace.interval_s(joined.base_s))
