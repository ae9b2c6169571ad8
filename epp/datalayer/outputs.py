"""How long answers are: a running mean of output tokens for each model, to expect decode work by."""

from __future__ import annotations

START_TOKENS = 256.0
"""Before any answer was seen; chat answers average 180 to 350 tokens in public traces."""
_WEIGHT = 0.05
"""Of a new answer in the mean: about the last 20 answers count."""
_LONGEST = 1 << 24
"""Tokens; answers that are said to be longer are lies of an engine."""
_MODELS = 1000
"""Models with a mean of their own; further ones share START_TOKENS."""


class OutputLengths:
    """Exponentially weighted mean by model."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def expected(self, model: str, limit: int | None) -> int:
        """Output tokens to expect, at most the request's own limit."""
        mean = self._means.get(model, START_TOKENS)
        return int(mean if limit is None else min(mean, limit))

    def saw(self, model: str, tokens: int) -> None:
        """An answer was this long."""
        if not 0 <= tokens < _LONGEST:
            return
        mean = self._means.get(model)
        if mean is None:
            if len(self._means) < _MODELS:
                self._means[model] = float(tokens)
        else:
            self._means[model] = mean + _WEIGHT * (tokens - mean)
