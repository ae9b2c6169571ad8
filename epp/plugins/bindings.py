"""Which session is bound to which endpoint: bounded, and forgotten when unused for a while."""

from __future__ import annotations

from collections import OrderedDict

MAX_SESSIONS = 100_000
"""At about 300 bytes each; beyond it the session unused for longest is forgotten."""
MAX_ID_BYTES = 256
"""Longer identifiers are no session identifiers."""


class Bindings:
    """Session id -> endpoint key (`namespace/name`), in order of last use."""

    def __init__(self, ttl_s: float, sweep_s: float, max_sessions: int = MAX_SESSIONS) -> None:
        self._ttl_s = ttl_s
        self._sweep_s = sweep_s
        self._max = max_sessions
        self._bound: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._swept_at = float("-inf")

    def __len__(self) -> int:
        return len(self._bound)

    def get(self, session: str, now: float) -> str | None:
        """The endpoint that the session is bound to, unless it was unused for longer than the TTL."""
        found = self._bound.get(session)
        if found is None or now - found[1] > self._ttl_s:
            return None
        return found[0]

    def bind(self, session: str, endpoint: str, now: float) -> None:
        """Bind or refresh; sweeps what has expired when it is time to."""
        self._bound[session] = (endpoint, now)
        self._bound.move_to_end(session)
        if len(self._bound) > self._max:
            self._bound.popitem(last=False)
        if now - self._swept_at >= self._sweep_s:
            self._swept_at = now
            while self._bound:
                oldest = next(iter(self._bound))
                if now - self._bound[oldest][1] <= self._ttl_s:
                    break
                del self._bound[oldest]
