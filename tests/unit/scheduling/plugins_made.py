"""Plugins made for tests: each does one thing, some of them badly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from epp.domain.decision import Decision, ProfileRun
from epp.domain.request import Request
from epp.domain.snapshot import Floats, Ints
from epp.scheduling.contract import Cycle


@dataclass
class Keeping:
    answer: Callable[[Ints], Any]

    def keep(self, cycle: Cycle, rows: Ints) -> Any:
        return self.answer(rows)


@dataclass
class Scoring:
    answer: Callable[[Ints], Any]

    def score(self, cycle: Cycle, rows: Ints) -> Any:
        return self.answer(rows)


@dataclass
class Picking:
    answer: Callable[[Ints, Floats], Any]

    def pick(self, cycle: Cycle, rows: Ints, totals: Floats) -> Any:
        return self.answer(rows, totals)


BEST = Picking(lambda rows, totals: (int(rows[totals.argmax()]),))
FIRST = Picking(lambda rows, totals: (int(rows[0]),))


@dataclass
class Running:
    """Runs these profiles one after another; `main` is the primary one."""

    profiles: Sequence[str]
    main: str = ""

    def next_profiles(self, cycle: Cycle, runs: Mapping[str, ProfileRun]) -> Sequence[str]:
        return [name for name in self.profiles if name not in runs][:1]

    def primary(self, cycle: Cycle, runs: Mapping[str, ProfileRun]) -> str:
        return self.main or self.profiles[0]


class Failing:
    """Everything that a plugin can be, and all of it raises."""

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("out of order")

    keep = score = pick = produce = chosen = request_headers = answer_headers = _fail
    next_profiles = primary = expected_output = forget = dump_state = _fail


@dataclass
class Recording:
    """Everything that learns, and remembers what it was told."""

    told: list[Any] = field(default_factory=list)

    def produce(self, cycle: Cycle) -> None:
        cycle.columns["seen"] = np.arange(len(cycle.snapshot), dtype=np.float64)
        self.told.append("produce")

    def chosen(self, cycle: Cycle, decision: Decision) -> None:
        self.told.append(("chosen", decision.endpoint.name))

    def request_headers(self, cycle: Cycle, decision: Decision) -> Sequence[tuple[str, str]]:
        return [("x-to", decision.endpoint.name)]

    def answer_headers(
        self, request: Request, decision: Decision, served: str | None
    ) -> Sequence[tuple[str, str]]:
        return [("x-served", str(served))]

    def expected_output(self, request: Request) -> int:
        return 7

    def forget(self, slot: int) -> None:
        self.told.append(("forget", slot))

    def dump_state(self) -> Mapping[str, Any]:
        return {"told": len(self.told)}


@dataclass
class Sink:
    timings: list[tuple[str, str, str, float]] = field(default_factory=list)
    faults: list[tuple[str, str, str, str]] = field(default_factory=list)

    def timed(self, extension_point: str, type_name: str, name: str, seconds: float) -> None:
        self.timings.append((extension_point, type_name, name, seconds))

    def fault(self, extension_point: str, type_name: str, name: str, what: str) -> None:
        self.faults.append((extension_point, type_name, name, what))


@dataclass
class Ticking:
    """A clock that goes on by one second whenever somebody looks."""

    now: float = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now
