"""A director with the real rooms behind it; only time and chance are given."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping, Sequence
from itertools import count
from random import Random
from typing import Any

from epp.admission.gate import Gate
from epp.admission.trust import Trust
from epp.call import RequestCall
from epp.config.loader import load_preset, load_text
from epp.datalayer.inflight import Ledger
from epp.datalayer.objectives import Objectives
from epp.datalayer.outliers import Outliers
from epp.datalayer.rewrites import Rewrites
from epp.datalayer.store import Store
from epp.director import Director
from epp.domain.endpoint import EndpointSpec
from epp.domain.errors import Answer
from epp.domain.snapshot import Ints
from epp.domain.views import AnswerPlan, Clock, Ending, Route, Verdict
from epp.extproc.answer import AnswerWatch, head_of
from epp.parsing.select import Parsers
from epp.rooms import Settings
from epp.telemetry.metrics import Metrics
from epp.telemetry.reasons import DecisionLog
from epp.telemetry.tracing import Tracer
from tests import builders


class Played:
    """One request with the door's part of its answer: watched by the plan, told to the director."""

    def __init__(self, call: RequestCall, clock: Clock) -> None:
        self.call = call
        self._clock = clock
        self._plan = AnswerPlan()
        self._watch: AnswerWatch | None = None

    def decide(self, body: bytes) -> Route | Answer:
        verdict = self.call.decide(body)
        assert isinstance(verdict, Route | Answer)
        if isinstance(verdict, Route):
            self._plan = verdict.answer
        return verdict

    def route(self, body: bytes) -> str:
        """Where it goes; for requests that nothing refuses."""
        verdict = self.decide(body)
        assert isinstance(verdict, Route)
        return verdict.destination

    def headers(
        self, status: int = 200, headers: Mapping[str, str] | None = None, served: str | None = None
    ) -> Sequence[tuple[str, str]]:
        """Headers that the director wants on the answer."""
        shown = {":status": str(status), **(headers or {})}
        head = head_of(shown, served, self._clock())
        self._watched().headers(shown, head)
        return [*self._plan.set, *self.call.answered(head)]

    def body(self, data: bytes, *, last: bool = True) -> bytes:
        """The piece as it goes to the client."""
        changed, first = self._watched().chunk(data, last)
        if first:
            self.call.first_token(self._clock())
        return data if changed is None else changed

    def end(self, ending: Ending = Ending.NATURAL) -> None:
        self.call.end(ending, self._watched().report())

    def _watched(self) -> AnswerWatch:
        if self._watch is None:
            self._watch = AnswerWatch(self._plan, self._clock)
        return self._watch


class House:
    """A director over `n` endpoints 10.0.0.1:8000 and on; `config` replaces the preset."""

    def __init__(
        self, n: int = 3, settings: Settings | None = None, config: str = "", trust: Trust | None = None
    ) -> None:
        self.now = 100.0
        self.objectives = Objectives()
        self.rewrites = Rewrites()
        self.ledger = Ledger()
        self.outliers = Outliers(Random(1))
        self.store = Store(observers=[self.ledger], health=self.outliers)
        self.metrics = Metrics()
        self.decisions = DecisionLog(100)
        loaded = load_text(config, allow_experimental=True) if config else load_preset()
        self.director = Director(
            parsers=Parsers(loaded.parsers),
            scheduler=loaded.scheduler(self.ledger),
            gate=Gate(loaded.detector.plugin, self.ledger),
            store=self.store,
            ledger=self.ledger,
            outliers=self.outliers,
            metrics=self.metrics,
            tracer=Tracer(),
            decisions=self.decisions,
            settings=settings or Settings(),
            trust=trust,
            objectives=self.objectives,
            rewrites=self.rewrites,
            clock=self.clock,
            seed=count().__next__,
        )
        specs = [EndpointSpec(f"pod-{i}", f"10.0.0.{i + 1}", 8000) for i in range(n)]
        self.store.set_endpoints(specs, self.now)

    def clock(self) -> float:
        return self.now

    def open(self, path: str = "/v1/chat/completions", **more: Any) -> RequestCall:
        return self.director.open(builders.head(path, received_at=self.now, **more))

    def play(self, path: str = "/v1/chat/completions", **more: Any) -> Played:
        return Played(self.open(path, **more), self.clock)

    def inflight(self) -> tuple[float, float]:
        slots: Ints = self.store.snapshot.slots
        return float(self.ledger.requests(slots).sum()), float(self.ledger.prefill_tokens(slots).sum())

    def page(self) -> str:
        return "".join(self.metrics.render())


def chat(text: str = "hello " * 100, **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more}).encode()


def refusal(verdict: Verdict | Awaitable[Verdict]) -> dict[str, Any]:
    assert isinstance(verdict, Answer)
    error: dict[str, Any] = json.loads(verdict.body)["error"]
    return {"status": verdict.status, **error}
