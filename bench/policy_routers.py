"""Who chooses in bench/policy.py: the picker's own rooms under any configuration, or a turn of the wheel.

A picker here is what `epp serve` builds between its sockets: store, ledger, scheduler, output lengths. The
clock and the sockets are missing; scrapes and the events of answers are handed in.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from epp.config.loaded import Loaded
from epp.datalayer.inflight import Entry, Ledger
from epp.datalayer.load import Load
from epp.datalayer.outputs import OutputLengths
from epp.datalayer.store import Store
from epp.domain.endpoint import EndpointSpec
from epp.domain.request import Request

LEAST_REQUESTS = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: active-request-scorer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: active-request-scorer
  - pluginRef: max-score-picker
"""


class Ticket(Protocol):
    """A routed request: told what its answer does."""

    @property
    def engine(self) -> int: ...

    def first_token(self, now: float) -> None: ...

    def ended(self, output_tokens: int, now: float) -> None: ...


class Router(Protocol):
    def choose(self, request: Request, now: float) -> Ticket: ...

    def scraped(self, engine: int, load: Load, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """Nothing is learned from how it goes."""

    engine: int

    def first_token(self, now: float) -> None:
        pass

    def ended(self, output_tokens: int, now: float) -> None:
        pass


class RoundRobin:
    """Each engine in turn, as a gateway without a picker does."""

    def __init__(self, engines: int, *, first: int = 0) -> None:
        self._engines = engines
        self._next = first

    def choose(self, request: Request, now: float) -> Turn:
        engine = self._next
        self._next = (engine + 1) % self._engines
        return Turn(engine)

    def scraped(self, engine: int, load: Load, now: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Sent:
    picker: Picker
    engine: int
    entry: Entry
    model: str
    uncached_tokens: int
    expected_output: int

    def first_token(self, now: float) -> None:
        self.entry.first_token()

    def ended(self, output_tokens: int, now: float) -> None:
        self.entry.end()
        self.picker.outputs.saw(self.model, output_tokens)


@dataclass(slots=True)
class Faults:
    """A plugin that fails would make the comparison worthless; counted by its name."""

    seen: Counter[str] = field(default_factory=Counter)

    def timed(self, extension_point: str, type_name: str, name: str, seconds: float) -> None:
        pass

    def fault(self, extension_point: str, type_name: str, name: str, what: str) -> None:
        self.seen[f"{name}: {what}"] += 1


class Picker:
    """One replica of the picker in front of `engines` engines."""

    def __init__(self, loaded: Loaded, engines: int, *, scrape_s: float, seed: int) -> None:
        self.faults = Faults()
        self.ledger = Ledger()
        self.outputs = OutputLengths()
        self.scheduler = loaded.scheduler(self.ledger, sink=self.faults)
        self.store = Store(observers=(self.ledger, self.scheduler))
        self.store.set_scrape_interval(scrape_s)
        specs = [EndpointSpec(f"e{i}", f"10.0.{i >> 8}.{i & 255}", 8000) for i in range(engines)]
        self.store.set_endpoints(specs, 0.0)
        self._rows = np.arange(engines)
        self._seed = seed << 32

    def choose(self, request: Request, now: float) -> Sent:
        """The steps of the director between parsing and the door."""
        self._seed += 1
        cycle, decision = self.scheduler.schedule(
            request, self.store.snapshot, self._rows, now=now, seed=self._seed
        )
        expected = self.scheduler.expected_output(request)
        if expected is None:
            expected = self.outputs.expected(request.target_model, request.max_output_tokens)
        slot = decision.endpoint.slot
        uncached = decision.uncached_tokens
        entry = self.ledger.start(slot, prefill_tokens=uncached, decode_tokens=expected)
        self.scheduler.chosen(cycle, decision)
        return Sent(self, slot, entry, request.target_model, uncached, expected)

    def scraped(self, engine: int, load: Load, now: float) -> None:
        self.store.report(self.store.endpoints[engine], load, now)
