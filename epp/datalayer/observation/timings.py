"""How long until the first token: learned from answers that were looked at, for those that are not.

An engine prefills in turn, so the first token of a request comes after the tokens that wait there, its own
included: seconds = base + rate x (its uncached tokens + the backlog at the time of sending). One robust line
for each endpoint and model; while that has seen too little, the model's over all endpoints, then that over
everything. Where no answer is looked at, or none was lately, one that the engines' own metrics tell (`told`),
for the endpoint or for all; and before anything is known, constants.
"""

from __future__ import annotations

from epp.datalayer.observation.line import Line
from epp.datalayer.observation.sampling import Schedule
from epp.datalayer.observation.told import Told
from epp.domain.snapshot import NEVER

BASE_S = 0.05
PREFILL_RATE = 5000.0
"""Prompt tokens a second of an engine of which nothing was seen: a model of 8 to 30 billion parameters on one
card of the middle class. The configuration may say better."""
_ENOUGH = 4
"""Samples from which on a line is believed."""
_FRESH_S = 120.0
"""Since the last sample: lines that are older are only better than nothing."""
_MODELS = 1000
"""With a line of their own over all endpoints; further ones share one."""
CELLS = 20_000
"""Of endpoint and model, about 600 bytes each."""
_CELLS_A_SLOT = 64
"""Clients can make up model names: the oldest of an endpoint go first."""


class Cell:
    """One model at one endpoint."""

    __slots__ = ("line", "model", "streamed", "told", "whole")

    def __init__(self, model: str, line: Line, told: Told) -> None:
        self.model = model
        self.line = line
        self.told = told
        """Of the endpoint, whatever the model."""
        self.streamed = Schedule()
        self.whole = Schedule()


class Timings:
    """Keyed by slot and model; an EndpointObserver."""

    def __init__(self, *, base_s: float = BASE_S, prefill_rate: float = PREFILL_RATE) -> None:
        self._base_s = base_s
        self._token_s = 1.0 / prefill_rate
        self._all = Line(base_s, self._token_s)
        self._sampled_at = NEVER
        self._models: dict[str, Line] = {}
        self._slots: dict[int, dict[str, Cell]] = {}
        self._told: dict[int, Told] = {}
        self._told_all = Told(base_s)
        self._cells = 0
        self._other = self._new("", Told(base_s))
        """For what finds no room."""

    def cell(self, slot: int, model: str) -> Cell:
        models = self._slots.get(slot)
        if models is not None:
            found = models.get(model)
            if found is not None:
                return found
        return self._add(slot, model)

    def fresh(self, now: float) -> bool:
        """Answers are looked at, so that no line but theirs is needed."""
        return now - self._sampled_at < _FRESH_S and self._all.samples >= _ENOUGH

    def delay(self, cell: Cell, tokens: float, now: float) -> float:
        """Seconds until the first token of a request behind so many tokens, its own included."""
        if now - self._sampled_at >= _FRESH_S or self._all.samples < _ENOUGH:
            told = cell.told
            if not told.enough:
                told = self._told_all
            if told.enough:
                return told.base_s + told.token_s * tokens
        line = cell.line
        if line.samples < _ENOUGH:
            line = self._models.get(cell.model, line)
            if line.samples < _ENOUGH:
                line = self._all
        return line.base_s + line.token_s * tokens

    def counts(self, slot: int, count: float, total_s: float, now: float) -> None:
        """The engine of the slot says how many first tokens there were so far and how long they took."""
        told = self._told.get(slot)
        if told is not None:
            more = told.counts(count, total_s, now)
            if more[0]:
                self._told_all.more(*more)

    def saw(self, cell: Cell, tokens: float, seconds: float, now: float) -> None:
        """A first token came so long after its request was sent."""
        self._sampled_at = now
        everything = self._all
        everything.saw(tokens, seconds, everything.token_s if everything.samples else self._token_s)
        of_model = self._models.get(cell.model)
        if of_model is None:
            name = cell.model if len(self._models) < _MODELS else ""
            of_model = self._models.setdefault(name, Line(everything.base_s, everything.token_s))
        of_model.saw(tokens, seconds, everything.token_s)
        cell.line.saw(tokens, seconds, of_model.token_s)

    def forget(self, slot: int) -> None:
        self._told.pop(slot, None)
        gone = self._slots.pop(slot, None)
        if gone is not None:
            self._cells -= len(gone)

    def __len__(self) -> int:
        return self._cells

    def _new(self, model: str, told: Told) -> Cell:
        return Cell(model, Line(self._all.base_s, self._all.token_s), told)

    def _add(self, slot: int, model: str) -> Cell:
        models = self._slots.setdefault(slot, {})
        if models and (self._cells >= CELLS or len(models) >= _CELLS_A_SLOT):
            del models[next(iter(models))]
            self._cells -= 1
        if self._cells >= CELLS:
            return self._other
        told = self._told.get(slot)
        if told is None:
            told = self._told[slot] = Told(self._base_s)
        made = models[model] = self._new(model, told)
        self._cells += 1
        return made
