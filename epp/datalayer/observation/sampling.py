"""Which answers of many to look at so that timings stay fresh: pure, with time and chance as arguments.

Of each endpoint, model and manner (streamed or not): the first few; then one at random about once in an
interval, so every one where requests are rarer; and prompts of a size that was not seen lately. All of them
together stay within a rate, whatever the pool's size: a large pool is sampled more rarely at each endpoint,
and its fits over all endpoints are the fresher for it.
"""

from __future__ import annotations

from random import Random

INTERVAL_S = 5.0
"""An engine's speed changes with its load within seconds; twelve answers a minute follow it."""
RATE = 10.0
"""Answers a second at most, all together: 250 chunks each cost a compiled transport 2 % of a core, grpcio a
third of one."""
_FIRST = 8
"""Looked at in a row before the interval counts: enough for a line."""
_SIZES_FRESH_S = 60.0
_BURST_S = 5.0
"""Seconds of the rate that may be saved up."""


class Schedule:
    """Of one endpoint, model and manner."""

    __slots__ = ("_next_at", "_sizes", "_sizes_until", "asked")

    def __init__(self) -> None:
        self.asked = 0
        """Answers that were to be looked at."""
        self._next_at = 0.0
        self._sizes = 0
        """A bit for each size of prompt that was asked for lately: sizes differ by a factor of four."""
        self._sizes_until = 0.0

    def due(self, tokens: float, now: float) -> bool:
        if now >= self._next_at or self.asked < _FIRST:
            return True
        if now >= self._sizes_until:
            return True
        return not self._sizes >> (int(tokens).bit_length() >> 1) & 1

    def ask(self, tokens: float, now: float, pause_s: float) -> None:
        self.asked += 1
        self._next_at = now + pause_s
        if now >= self._sizes_until:
            self._sizes, self._sizes_until = 0, now + _SIZES_FRESH_S
        self._sizes |= 1 << (int(tokens).bit_length() >> 1)


class Sampler:
    """Holds all schedules to one rate."""

    __slots__ = ("_at", "_chance", "_interval_s", "_left", "_most", "_rate")

    def __init__(self, chance: Random, *, interval_s: float = INTERVAL_S, rate: float = RATE) -> None:
        self._chance = chance
        self._interval_s = interval_s
        self._rate = rate
        self._most = max(1.0, _BURST_S * rate)
        self._left = self._most
        self._at = 0.0

    def wants(self, schedule: Schedule, tokens: float, now: float) -> bool:
        """Whether to look at the answer of a request that leaves now, behind so many tokens of prefill."""
        if not schedule.due(tokens, now):
            return False
        left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if left < 1.0:
            self._left = left
            return False
        self._left = left - 1.0
        # Half to one and a half intervals: traffic that comes in a beat is not seen at the same beat always.
        schedule.ask(tokens, now, self._interval_s * (0.5 + self._chance.random()))
        return True
