"""Tokens of answers that were not looked at, as those that were let expect them."""

from __future__ import annotations

_WEIGHT = 0.05
_MODELS = 1000
_LONGEST = 1 << 24
_RATIO_MIN, _RATIO_MAX = 0.05, 20.0
"""Of the engine's prompt tokens to our count; beyond it the engine counts something else (images)."""


class Usages:
    """Sums, and a correction by model for prompts, which we count by their bytes and engines by tokens."""

    def __init__(self) -> None:
        self._ratios: dict[str, float] = {}
        self.input_tokens = 0.0
        """Estimated, of all unobserved answers."""
        self.output_tokens = 0.0

    def saw(self, model: str, counted: int, tokens: int) -> None:
        """The engine found `tokens` in a prompt that we count as `counted`."""
        if counted <= 0 or not 0 < tokens < _LONGEST:
            return
        ratio = min(max(tokens / counted, _RATIO_MIN), _RATIO_MAX)
        known = self._ratios.get(model)
        if known is not None:
            self._ratios[model] = known + _WEIGHT * (ratio - known)
        elif len(self._ratios) < _MODELS:
            self._ratios[model] = ratio

    def prompt(self, model: str, counted: int) -> float:
        """Tokens that the engine will count."""
        return counted * self._ratios.get(model, 1.0)

    def unseen(self, model: str, counted: int, output_tokens: int) -> None:
        """An answer went by that nobody looked at."""
        self.input_tokens += self.prompt(model, counted)
        self.output_tokens += output_tokens
