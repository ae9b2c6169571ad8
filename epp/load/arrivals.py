"""When requests arrive: endless or bounded streams of offsets, in seconds since the start.

Open loop: an offset never depends on an answer. Every stream is ascending and, where chance plays a part,
drawn from the `random.Random` that it is given, so the same seed repeats the same load.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

Arrivals = Iterator[float]
MAX_RATE = 1_000_000.0
"""Requests per second; above this no generator on one machine could mean it."""


def constant(rate: float) -> Arrivals:
    """One every 1/rate seconds. Computed from the count, so that rounding never accumulates."""
    count = 0
    while True:
        yield count / rate
        count += 1


def gamma(rate: float, burstiness: float, rng: Random) -> Arrivals:
    """Gamma-distributed gaps with mean 1/rate and shape `burstiness`.

    1 is Poisson, below 1 comes in bursts, above 1 is more even: the parameter of vLLM's benchmark.
    """
    scale = 1.0 / (rate * burstiness)
    at = 0.0
    while True:
        at += rng.gammavariate(burstiness, scale)
        yield at


def poisson(rate: float, rng: Random) -> Arrivals:
    """Exponential gaps with mean 1/rate."""
    at = 0.0
    while True:
        at += rng.expovariate(rate)
        yield at


def bursts(size: int, every_s: float) -> Arrivals:
    """`size` requests at the same instant, every `every_s` seconds."""
    count = 0
    while True:
        at = count * every_s
        for _ in range(size):
            yield at
        count += 1


def at_once() -> Arrivals:
    """Everything at the start (what vLLM's benchmark calls an infinite rate)."""
    while True:
        yield 0.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A span of time in which the rate goes linearly from `start` to `end` (requests per second)."""

    start: float
    end: float
    seconds: float

    @property
    def expected(self) -> float:
        """Mean number of arrivals in the stage."""
        return (self.start + self.end) / 2 * self.seconds

    def when(self, expected: float) -> float:
        """The offset into the stage by which `expected` arrivals are due on average.

        Inverse of start*t + (end - start) * t^2 / (2 * seconds); written so that it stays exact for a
        constant rate, where the textbook root would divide by zero.
        """
        slope = (self.end - self.start) / self.seconds
        root = math.sqrt(max(0.0, self.start * self.start + 2 * slope * expected))
        return min(self.seconds, 2 * expected / (self.start + root)) if expected > 0 else 0.0


def staged(stages: Sequence[Stage], rng: Random) -> Arrivals:
    """A Poisson process whose rate follows the stages; ends with the last one.

    A unit-rate process is mapped through the inverse of the expected count, which is exact for any rate.
    """
    due = rng.expovariate(1.0)
    began = 0.0
    for stage in stages:
        expected = stage.expected
        while due < expected:
            yield began + stage.when(due)
            due += rng.expovariate(1.0)
        due -= expected
        began += stage.seconds


def bounded(arrivals: Arrivals, *, count: int | None = None, seconds: float | None = None) -> Arrivals:
    """At most `count` arrivals, none of them later than `seconds`."""
    for index, at in enumerate(arrivals):
        if (count is not None and index >= count) or (seconds is not None and at > seconds):
            return
        yield at


_NUMBER = r"(\d+(?:\.\d+)?)"
_GRAMMAR: tuple[tuple[str, re.Pattern[str], Callable[[list[float], Random], Arrivals]], ...] = (
    ("constant:RATE", re.compile(f"constant:{_NUMBER}"), lambda n, _: constant(_rate(n[0]))),
    ("poisson:RATE", re.compile(f"poisson:{_NUMBER}"), lambda n, rng: poisson(_rate(n[0]), rng)),
    (
        "gamma:RATE,BURSTINESS",
        re.compile(f"gamma:{_NUMBER},{_NUMBER}"),
        lambda n, rng: gamma(_rate(n[0]), _positive(n[1], "burstiness"), rng),
    ),
    (
        "bursts:SIZE/SECONDS",
        re.compile(rf"bursts:(\d+)/{_NUMBER}"),
        lambda n, _: bursts(int(_positive(n[0], "burst size")), _positive(n[1], "seconds")),
    ),
    (
        "ramp:FROM-TO/SECONDS",
        re.compile(f"ramp:{_NUMBER}-{_NUMBER}/{_NUMBER}"),
        lambda n, rng: staged(_not_all_silent([_stage(n[0], n[1], n[2])]), rng),
    ),
)
_STEP = re.compile(f"{_NUMBER}x{_NUMBER}")
SYNTAX = ", ".join([row[0] for row in _GRAMMAR] + ["steps:RATExSECONDS,...", "at-once"])


def parse(text: str, rng: Random) -> Arrivals:
    """The arrivals that a word names, in SYNTAX. Raises ValueError with the grammar."""
    if text == "at-once":
        return at_once()
    for _, pattern, build in _GRAMMAR:
        match = pattern.fullmatch(text)
        if match:
            return build([float(group) for group in match.groups()], rng)
    if text.startswith("steps:"):
        steps = [_STEP.fullmatch(step) for step in text.removeprefix("steps:").split(",")]
        if all(steps):
            stages = [_stage(float(s[1]), float(s[1]), float(s[2])) for s in steps if s]
            return staged(_not_all_silent(stages), rng)
    raise ValueError(f"{text!r} is none of: {SYNTAX}")


def _positive(value: float, what: str) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{what} must be above 0, not {value:g}")
    return value


def _rate(value: float) -> float:
    if not 0 < value <= MAX_RATE:
        raise ValueError(f"a rate must be above 0 and at most {MAX_RATE:g} requests/s, not {value:g}")
    return value


def _stage(start: float, end: float, seconds: float) -> Stage:
    if max(start, end) > 0:
        _rate(max(start, end))
    return Stage(start, end, _positive(seconds, "seconds"))


def _not_all_silent(stages: Sequence[Stage]) -> Sequence[Stage]:
    """A stage without arrivals is a pause; nothing but pauses is a mistake."""
    if not any(stage.expected > 0 for stage in stages):
        raise ValueError("a rate above 0 is needed somewhere")
    return stages
