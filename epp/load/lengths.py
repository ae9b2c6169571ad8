"""How long things are: token counts and pauses drawn from simple distributions."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from dataclasses import dataclass
from random import Random
from typing import Protocol

MAX_TOKENS = 4_000_000
"""Of one drawn length: 16 MB of text, more than any engine takes."""


class Draw(Protocol):
    """A positive quantity at random."""

    def draw(self, rng: Random) -> float: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    value: float

    def draw(self, rng: Random) -> float:
        return self.value


@dataclass(frozen=True, slots=True)
class Uniform:
    low: float
    high: float

    def draw(self, rng: Random) -> float:
        return rng.uniform(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Normal:
    """Cut at 1 below, and at four deviations above."""

    mean: float
    deviation: float

    def draw(self, rng: Random) -> float:
        return min(self.mean + 4 * self.deviation, max(1.0, rng.gauss(self.mean, self.deviation)))


@dataclass(frozen=True, slots=True)
class LogNormal:
    """By its median and the deviation of the logarithm; cut at four deviations above."""

    median: float
    sigma: float

    def draw(self, rng: Random) -> float:
        return self.median * math.exp(min(4.0, rng.gauss(0.0, 1.0)) * self.sigma)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A measured distribution by its quantiles: straight lines between them on a logarithmic scale.

    `points` are (share below, value), shares ascending from 0 to 1, values above 0 and ascending.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.points]
        values = [value for _, value in self.points]
        if shares[0] != 0 or shares[-1] != 1 or sorted(set(shares)) != shares:
            raise ValueError("shares must ascend from 0 to 1")
        if values[0] <= 0 or sorted(values) != values:
            raise ValueError("values must be above 0 and ascend")

    def at(self, share: float) -> float:
        """The value below which `share` of all lie."""
        index = bisect_right(self.points, share, key=lambda point: point[0])
        if index >= len(self.points):
            return self.points[-1][1]
        (low_share, low), (high_share, high) = self.points[index - 1], self.points[index]
        part = (share - low_share) / (high_share - low_share)
        return math.exp(math.log(low) + part * (math.log(high) - math.log(low)))

    def draw(self, rng: Random) -> float:
        return self.at(rng.random())


SYNTAX = "TOKENS, LOW-HIGH, normal:MEAN,DEVIATION, lognormal:MEDIAN,SIGMA"
_NUMBER = r"(\d+(?:\.\d+)?)"
_FIXED = re.compile(_NUMBER)
_UNIFORM = re.compile(f"{_NUMBER}-{_NUMBER}")
_NAMED = re.compile(f"(normal|lognormal):{_NUMBER},{_NUMBER}")


def parse(text: str) -> Draw:
    """A length in SYNTAX. Raises ValueError with the grammar, or with the bound that it breaks."""
    if match := _FIXED.fullmatch(text):
        return Fixed(_tokens(match[1]))
    if match := _UNIFORM.fullmatch(text):
        low, high = _tokens(match[1]), _tokens(match[2])
        if low > high:
            raise ValueError(f"{text!r}: the lower bound is above the upper one")
        return Uniform(low, high)
    if match := _NAMED.fullmatch(text):
        middle, spread = _tokens(match[2]), float(match[3])
        if match[1] == "normal":
            return Normal(middle, spread)
        if spread > 3:
            raise ValueError(f"{text!r}: sigma is of the natural logarithm; above 3 it means nothing")
        return LogNormal(middle, spread)
    raise ValueError(f"{text!r} is none of: {SYNTAX}")


def tokens(draw: Draw, rng: Random, scale: float = 1.0) -> int:
    """A drawn token count: whole, at least 1, at most MAX_TOKENS."""
    return max(1, min(MAX_TOKENS, round(draw.draw(rng) * scale)))


def _tokens(text: str) -> float:
    value = float(text)
    if not 1 <= value <= MAX_TOKENS:
        raise ValueError(f"a length must be from 1 to {MAX_TOKENS} tokens, not {text}")
    return value
