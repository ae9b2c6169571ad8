"""One line through recent samples: seconds to the first token by tokens to be prefilled before it.

Least squares over sums that decay with each sample, so that one costs the same however many there were. What
lies far off the line counts less (its weight falls with the distance, as in Huber's estimator), so that one
stalled request does not move it; several in a row do, since the spread that is held against them grows along.
"""

from __future__ import annotations

_DECAY = 0.95
"""Of what was known, kept at each sample: about the last 20 count."""
_FAR = 3.0
"""Mean deviations from which on a sample counts less."""
_SPREAD_STEP = 0.2
_SPREAD_MIN_S = 0.002
_STIFF_TOKENS = 400.0
"""How far prompts must differ in length for a slope of their own: with one length in all samples, the slope
is that of the wider fit."""
TOKEN_MAX_S = 0.01
"""A hundred tokens a second is slower than any engine worth a picker."""


class Line:
    """`base_s + token_s x tokens`, until the first sample as it was given."""

    __slots__ = ("_spread_s", "_w", "_x", "_xx", "_xy", "_y", "base_s", "samples", "token_s")

    def __init__(self, base_s: float, token_s: float) -> None:
        self.base_s = base_s
        self.token_s = token_s
        self.samples = 0
        self._w = self._x = self._y = self._xx = self._xy = 0.0
        self._spread_s = 0.0

    def at(self, tokens: float) -> float:
        return self.base_s + self.token_s * tokens

    def saw(self, tokens: float, seconds: float, wider_token_s: float) -> None:
        """`wider_token_s`: the slope of a fit over more endpoints or models, leaned on where samples tell
        little."""
        weight = 1.0
        off = abs(seconds - self.at(tokens))
        if self.samples > 1:
            spread = max(self._spread_s, _SPREAD_MIN_S)
            if off > _FAR * spread:
                weight = _FAR * spread / off
            off = min(off, 2.0 * _FAR * spread)
            self._spread_s += _SPREAD_STEP * (off - self._spread_s)
        elif self.samples == 1:
            self._spread_s = off
        self.samples += 1
        self._w = _DECAY * self._w + weight
        self._x = _DECAY * self._x + weight * tokens
        self._y = _DECAY * self._y + weight * seconds
        self._xx = _DECAY * self._xx + weight * tokens * tokens
        self._xy = _DECAY * self._xy + weight * tokens * seconds
        x, y = self._x / self._w, self._y / self._w
        stiff = _STIFF_TOKENS * _STIFF_TOKENS / self._w
        spread_xx = max(0.0, self._xx / self._w - x * x)
        slope = (self._xy / self._w - x * y + stiff * wider_token_s) / (spread_xx + stiff)
        self.token_s = min(max(slope, 0.0), TOKEN_MAX_S)
        self.base_s = y - self.token_s * x
        if self.base_s < 0.0:  # then through the origin
            self.base_s = 0.0
            self.token_s = min(self._xy / self._xx, TOKEN_MAX_S)
