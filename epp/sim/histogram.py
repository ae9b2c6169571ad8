"""A Prometheus histogram that renders in one formatting operation."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Histogram:
    """Buckets by upper bound, in the metric's unit."""

    __slots__ = ("_counts", "_dirty", "_sum", "_template", "_text", "bounds")

    def __init__(self, name: str, about: str, bounds: Sequence[float], labels: str) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0
        labels = labels.replace("%", "%%")
        lines = [f"# HELP {name} {about}\n# TYPE {name} histogram\n"]
        lines += [
            f'{name}_bucket{{{labels},le="{_bound(bound)}"}} %d\n' for bound in (*self.bounds, math.inf)
        ]
        lines.append(f"{name}_count{{{labels}}} %d\n{name}_sum{{{labels}}} %r\n")
        self._template = "".join(lines)
        self._text = ""
        self._dirty = True

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def sum(self) -> float:
        return self._sum

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self.bounds, value)] += times
        self._sum += value * times
        self._dirty = True

    def render(self) -> str:
        if self._dirty:
            cumulative = list(accumulate(self._counts))
            self._text = self._template % (*cumulative, cumulative[-1], self._sum)
            self._dirty = False
        return self._text


def _bound(bound: float) -> str:
    return "+Inf" if bound == math.inf else repr(float(bound))


def one_two_five(limit: int) -> list[float]:
    """1, 2, 5, 10, 20, 50 ... up to a limit."""
    bounds: list[float] = []
    power = 1
    while power <= limit:
        bounds += [power * digit for digit in (1, 2, 5) if power * digit <= limit]
        power *= 10
    return bounds
