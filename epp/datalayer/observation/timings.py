"""How long until the first token: learned from answers that were looked at, for those that are not.

An engine prefills in turn, so the first token of a request comes after the tokens that wait there, its own
included: seconds = base + rate x (its uncached tokens + the backlog at the time of sending). One robust line
for each endpoint and model; while that has seen too little, the model's over all endpoints; then that over
everything; and before anything was seen, constants.
"""

from __future__ import annotations

from epp.datalayer.observation.line import Line
from epp.datalayer.observation.sampling import Schedule

BASE_S = 0.05
PREFILL_RATE = 5000.0
"""Prompt tokens a second of an engine of which nothing was seen: a model of 8 to 30 billion parameters on one
card of the middle class. The configuration may say better."""
_ENOUGH = 4
"""Samples from which on a line is believed."""
_MODELS = 1000
"""With a line of their own over all endpoints; further ones share one."""
CELLS = 20_000
"""Of endpoint and model, about 600 bytes each."""
_CELLS_A_SLOT = 64
"""Clients can make up model names: the oldest of an endpoint go first."""


class Cell:
    """One model at one endpoint."""

    __slots__ = ("line", "model", "streamed", "whole")

    def __init__(self, model: str, line: Line) -> None:
        self.model = model
        self.line = line
        self.streamed = Schedule()
        self.whole = Schedule()


class Timings:
    """Keyed by slot and model; an EndpointObserver."""

    def __init__(self, *, base_s: float = BASE_S, prefill_rate: float = PREFILL_RATE) -> None:
        self._token_s = 1.0 / prefill_rate
        self._all = Line(base_s, self._token_s)
        self._models: dict[str, Line] = {}
        self._slots: dict[int, dict[str, Cell]] = {}
        self._cells = 0
        self._other = self._new("")
        """For what finds no room."""

    def cell(self, slot: int, model: str) -> Cell:
        models = self._slots.get(slot)
        if models is not None:
            found = models.get(model)
            if found is not None:
                return found
        return self._add(slot, model)

    def delay(self, cell: Cell, tokens: float) -> float:
        """Seconds until the first token of a request behind so many tokens, its own included."""
        line = cell.line
        if line.samples < _ENOUGH:
            line = self._models.get(cell.model, line)
            if line.samples < _ENOUGH:
                line = self._all
        return line.base_s + line.token_s * tokens

    def saw(self, cell: Cell, tokens: float, seconds: float) -> None:
        """A first token came so long after its request was sent."""
        everything = self._all
        everything.saw(tokens, seconds, everything.token_s if everything.samples else self._token_s)
        of_model = self._models.get(cell.model)
        if of_model is None:
            name = cell.model if len(self._models) < _MODELS else ""
            of_model = self._models.setdefault(name, Line(everything.base_s, everything.token_s))
        of_model.saw(tokens, seconds, everything.token_s)
        cell.line.saw(tokens, seconds, of_model.token_s)

    def forget(self, slot: int) -> None:
        gone = self._slots.pop(slot, None)
        if gone is not None:
            self._cells -= len(gone)

    def __len__(self) -> int:
        return self._cells

    def _new(self, model: str) -> Cell:
        return Cell(model, Line(self._all.base_s, self._all.token_s))

    def _add(self, slot: int, model: str) -> Cell:
        models = self._slots.setdefault(slot, {})
        if models and (self._cells >= CELLS or len(models) >= _CELLS_A_SLOT):
            del models[next(iter(models))]
            self._cells -= 1
        if self._cells >= CELLS:
            return self._other
        made = models[model] = self._new(model)
        self._cells += 1
        return made
