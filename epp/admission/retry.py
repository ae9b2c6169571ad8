"""When a refused client should come back: what is ahead of it, divided by how fast the queues drain."""

from __future__ import annotations

from math import ceil, exp

LONGEST_S = 60
_LONGEST_BASE_S = 40.0
"""So that the jitter, up to half as much again, ends at the longest."""
_UNKNOWN_S = 2.0
_WINDOW_S = 10.0
_LEAST_MEASURED_S = 0.5


class DrainRate:
    """Requests sent a second while others waited, over about ten seconds of such time. What is sent while
    nothing waits shows how much comes, not how much could go, so that time does not count."""

    def __init__(self, now: float) -> None:
        self._at = now
        self._backlog = False
        self._sent = 0.0
        self._measured_s = 0.0

    def note(self, now: float, sent: int, *, backlog: bool) -> None:
        """So many were sent now; `backlog`: others still wait."""
        if self._backlog:
            fade = exp(-max(0.0, now - self._at) / _WINDOW_S)
            self._sent = self._sent * fade + sent
            self._measured_s = self._measured_s * fade + _WINDOW_S * (1.0 - fade)
        self._at = now
        self._backlog = backlog

    def per_second(self) -> float | None:
        """None until it was measured for half a second. Where nothing was sent, one is taken to go now: a
        stall of a second tells that the next takes a second or more, not that nothing will ever go."""
        if self._measured_s < _LEAST_MEASURED_S:
            return None
        return max(1.0, self._sent) / self._measured_s


def retry_after_s(ahead: int, per_second: float | None, chance: float) -> int:
    """Whole seconds, 1..60. `chance` in [0, 1) spreads those that were refused together over half as long
    again, and over at least a second, so that they do not come back together."""
    if per_second is None:
        base = _UNKNOWN_S
    elif ahead >= per_second * _LONGEST_BASE_S:
        base = _LONGEST_BASE_S
    else:
        base = ahead / per_second
    return min(LONGEST_S, max(1, ceil(base + chance * max(1.0, base / 2.0))))
