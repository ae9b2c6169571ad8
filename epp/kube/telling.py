"""When pools are told their endpoints: what went or changed at once, what only came a moment later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from epp.datalayer.endpoints_file import MAX_ENDPOINTS
from epp.domain.endpoint import EndpointSpec

ADDED_S = 0.02
"""Long enough that a rollout's pods come in lots, too short for anybody to wait for."""
log = logging.getLogger("epp.kube")


class Telling:
    """Pools by key whose endpoints are to be told, many changes of one pool once."""

    def __init__(
        self,
        endpoints: Callable[[str], Sequence[EndpointSpec]],
        tell: Callable[[str, Sequence[EndpointSpec]], None],
        added_s: float = ADDED_S,
    ) -> None:
        self._endpoints = endpoints
        self._tell = tell
        self._added_s = added_s
        self._due: set[str] = set()
        self._handle: asyncio.Handle | None = None
        self._urgent = False
        self._crowded: set[str] = set()
        """Pools that have more endpoints than are told."""
        self._empty: set[str] = set()
        self.open = False
        """Whether what there is to tell is whole; until then it waits."""

    def touched(self, pool: str, urgent: bool) -> None:
        """`urgent`: at the next turn of the event loop."""
        self._due.add(pool)
        if not self.open or (self._handle is not None and (self._urgent or not urgent)):
            return
        if self._handle is not None:
            self._handle.cancel()
        loop = asyncio.get_running_loop()
        self._urgent = urgent
        self._handle = loop.call_soon(self.now) if urgent else loop.call_later(self._added_s, self.now)

    def gone(self, pool: str) -> None:
        self._due.discard(pool)
        self._crowded.discard(pool)
        self._empty.discard(pool)

    def now(self, pools: Iterable[str] = ()) -> None:
        """All that is due, and these."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        due, self._due = self._due.union(pools), set()
        for pool in due:
            try:
                self._now(pool)
            except Exception:  # a fault of ours with one pool; the others are told all the same
                log.exception("pool %s could not be told its endpoints; again at the next change", pool)
                self._due.add(pool)

    def _now(self, pool: str) -> None:
        endpoints = self._endpoints(pool)
        if len(endpoints) <= MAX_ENDPOINTS:
            self._crowded.discard(pool)
        elif pool not in self._crowded:
            self._crowded.add(pool)
            log.error("pool %s has %d endpoints: only %d are used", pool, len(endpoints), MAX_ENDPOINTS)
        if not endpoints and pool not in self._empty:
            self._empty.add(pool)
            log.warning("pool %s has no endpoint: no pod that its selector matches is ready", pool)
        elif endpoints and pool in self._empty:
            self._empty.discard(pool)
            log.info("pool %s has endpoints: %d", pool, len(endpoints))
        self._tell(pool, endpoints[:MAX_ENDPOINTS])
