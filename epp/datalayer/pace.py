"""How often every endpoint is scraped: the interval grows with the pool so that a CPU budget is kept."""

from __future__ import annotations

DEFAULT_INTERVAL_S = 0.1
"""Ours; the reference picker's is 50 ms. A scrape costs us 70 to 100 us, but a Python engine 4 ms (measured:
prometheus_client rendering 60 KB), in the process that also streams its tokens: 4 % of it at 100 ms, 8 % at
50 ms, and again for every further replica of the picker. What we ourselves send between two scrapes the
ledger knows at once, so fresher queue depths buy little."""
MIN_INTERVAL_S = 0.05
"""As in the reference: shorter ones are raised to it."""
MAX_INTERVAL_S = 10.0
BUDGET = 0.2
"""Share of one core for scraping. The loop that scrapes is the one that decides, so this is also the share of
time in which a request may find it busy."""
FIRST_COST_S = 100e-6
"""Assumed CPU seconds a scrape until some were measured."""
SURROUNDING_S = 30e-6
"""CPU seconds of the event loop and the kernel around our callbacks in one scrape, which they cannot time."""
_WEIGHT = 0.2
_STEP = 0.1
"""The interval is left alone until it would change by more than this share."""


class Pace:
    """Pure arithmetic: told what scrapes cost, says how long to wait between two of one endpoint."""

    def __init__(self, interval_s: float = DEFAULT_INTERVAL_S, *, budget: float = BUDGET) -> None:
        self._base_s = max(MIN_INTERVAL_S, interval_s)
        self._budget = budget
        self._endpoints = 0
        self.cost_s = FIRST_COST_S
        """CPU seconds a scrape, smoothed."""
        self.interval_s = self._base_s

    def resize(self, endpoints: int) -> None:
        """The pool has so many endpoints now."""
        self._endpoints = endpoints
        self._settle(0.0)

    def spent(self, cpu_s: float, scrapes: int) -> None:
        """So many scrapes cost so much CPU time in our callbacks."""
        if scrapes > 0:
            cost_s = max(0.0, cpu_s) / scrapes + SURROUNDING_S
            self.cost_s += _WEIGHT * (cost_s - self.cost_s)
            self._settle(_STEP)

    @property
    def share(self) -> float:
        """Share of one core that scraping takes at this interval."""
        return self._endpoints * self.cost_s / self.interval_s

    def _settle(self, slack: float) -> None:
        needed_s = self._endpoints * self.cost_s / self._budget
        interval_s = max(self._base_s, min(MAX_INTERVAL_S, needed_s))
        bound = interval_s in (self._base_s, MAX_INTERVAL_S)
        if bound or abs(interval_s - self.interval_s) > slack * self.interval_s:
            self.interval_s = interval_s
