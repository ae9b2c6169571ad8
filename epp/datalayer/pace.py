"""How often endpoints are scraped: as often as their pools ask for, or more rarely, all in one proportion, so
that a CPU budget is kept."""

from __future__ import annotations

DEFAULT_INTERVAL_S = 0.1
"""Ours; the reference picker's is 50 ms. A scrape costs us 70 to 100 us, but a Python engine 4 ms (measured:
prometheus_client rendering 60 KB), in the process that also streams its tokens: 4 % of it at 100 ms, 8 % at
50 ms, and again for every further replica of the picker. What we ourselves send between two scrapes the
ledger knows at once, so fresher queue depths buy little."""
MIN_INTERVAL_S = 0.05
"""As in the reference: shorter ones are raised to it."""
MAX_INTERVAL_S = 10.0
"""Nothing is stretched beyond this."""
BUDGET = 0.2
"""Share of one core for scraping. The loop that scrapes is the one that decides, so this is also the share of
time in which a request may find it busy."""
FIRST_COST_S = 100e-6
"""Assumed CPU seconds a scrape until some were measured."""
SURROUNDING_S = 30e-6
"""CPU seconds of the event loop and the kernel around our callbacks in one scrape, which they cannot time."""
_STRETCH_MAX = MAX_INTERVAL_S / MIN_INTERVAL_S
_WEIGHT = 0.2
_STEP = 0.1
"""Intervals are left alone until they would change by more than this share."""


class Pace:
    """Pure arithmetic: told who is to be scraped and what that costs, says how long to wait between two
    scrapes of one endpoint. `base_s` is the interval that a pool asks for."""

    def __init__(self, *, budget: float = BUDGET) -> None:
        self._budget = budget
        self._endpoints: dict[float, int] = {}
        """By base interval."""
        self.cost_s = FIRST_COST_S
        """CPU seconds a scrape, smoothed."""
        self.stretch = 1.0
        """What base intervals are multiplied by."""

    def resize(self, base_s: float, difference: int) -> None:
        """So many endpoints of this base interval came, or went."""
        base_s = max(MIN_INTERVAL_S, base_s)
        count = self._endpoints.pop(base_s, 0) + difference
        if count > 0:
            self._endpoints[base_s] = count
        self._settle()

    def spent(self, cpu_s: float, scrapes: int) -> None:
        """So many scrapes cost so much CPU time in our callbacks."""
        if scrapes > 0:
            cost_s = max(0.0, cpu_s) / scrapes + SURROUNDING_S
            self.cost_s += _WEIGHT * (cost_s - self.cost_s)
            self._settle()

    def interval_s(self, base_s: float) -> float:
        """Seconds between two scrapes of one endpoint whose pool asks for `base_s`."""
        base_s = max(MIN_INTERVAL_S, base_s)
        return min(base_s * self.stretch, max(base_s, MAX_INTERVAL_S))

    @property
    def longest_s(self) -> float:
        """The longest interval that is in use; 0 without endpoints."""
        return self.interval_s(max(self._endpoints)) if self._endpoints else 0.0

    @property
    def shortest_s(self) -> float:
        return self.interval_s(min(self._endpoints)) if self._endpoints else 0.0

    @property
    def share(self) -> float:
        """Share of one core that scraping takes at these intervals."""
        return self.cost_s * sum(count / self.interval_s(base_s) for base_s, count in self._endpoints.items())

    def _settle(self) -> None:
        stretch = self._needed()
        if stretch in (1.0, _STRETCH_MAX) or abs(stretch - self.stretch) > _STEP * self.stretch:
            self.stretch = stretch

    def _needed(self) -> float:
        left, budget = dict(self._endpoints), self._budget
        # Who reaches the longest interval first takes what it takes; the others share the rest.
        for base_s in sorted(self._endpoints, reverse=True):
            stretch = self.cost_s * sum(count / base for base, count in left.items()) / budget
            if stretch <= 1.0:
                return 1.0
            if base_s * stretch <= MAX_INTERVAL_S:
                return stretch
            budget -= self.cost_s * left.pop(base_s) / max(base_s, MAX_INTERVAL_S)
            if budget <= 0.0:
                break
        return _STRETCH_MAX
