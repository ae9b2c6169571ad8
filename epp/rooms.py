"""Everything that requests share: the rooms, by the names under which a call finds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from epp.admission.gate import Gate
from epp.admission.trust import Trust
from epp.candidates import Candidates
from epp.datalayer.homes import Homes
from epp.datalayer.inflight import Ledger
from epp.datalayer.models import ModelProbe
from epp.datalayer.objectives import Objectives
from epp.datalayer.observation.observation import Observation
from epp.datalayer.outliers import Outliers
from epp.datalayer.outputs import OutputLengths
from epp.datalayer.rewrites import Rewrites
from epp.datalayer.store import Store
from epp.domain.controls import Controls
from epp.domain.views import (
    Clock,
    ObjectiveSource,
)
from epp.parsing.select import Parsers
from epp.queues import Queues
from epp.scheduling.scheduler import Scheduler
from epp.telemetry.metrics import Metrics
from epp.telemetry.reasons import DecisionLog
from epp.telemetry.refusals import RefusalLog
from epp.telemetry.tracing import Tracer


@dataclass(frozen=True, slots=True)
class Settings:
    subset_filter: bool = True
    """Obey the gateway's subset hint; off by --disable-endpoint-subset-filter."""
    emit_scores: bool = False
    """--emit-endpoint-scores."""
    reasons_header: bool = False
    """Tell the client why, in the answer's headers."""


class Rooms:
    """All that one request may need. Built by the composition root."""

    def __init__(
        self,
        *,
        parsers: Parsers,
        scheduler: Scheduler,
        gate: Gate,
        store: Store,
        ledger: Ledger,
        outliers: Outliers | None,
        metrics: Metrics,
        tracer: Tracer,
        decisions: DecisionLog,
        settings: Settings,
        clock: Clock,
        seed: Callable[[], int],
        models: ModelProbe | None = None,
        observation: Observation | None = None,
        queues: Queues | None = None,
        trust: Trust | None = None,
        objectives: ObjectiveSource | None = None,
        rewrites: Rewrites | None = None,
        refusals: RefusalLog | None = None,
        homes: Homes | None = None,
        outputs: OutputLengths | None = None,
    ) -> None:
        """With `queues` requests wait for room; without them the gate alone decides."""
        self.parsers = parsers
        self.scheduler = scheduler
        self.gate = gate
        self.store = store
        self.ledger = ledger
        self.outliers = outliers
        self.models = models
        self.metrics = metrics
        self.tracer = tracer
        self.decisions = decisions
        self.refusals = RefusalLog() if refusals is None else refusals
        self.settings = settings
        self.clock = clock
        self.seed = seed
        self.observation = observation or Observation(ledger, Random(0))
        self.queues = queues
        self.trust = trust or Trust()
        self.objectives = objectives or Objectives()
        self.rewrites = Rewrites() if rewrites is None else rewrites
        self.homes = Homes() if homes is None else homes
        self.candidates = Candidates(self.homes, models, clock, subset_filter=settings.subset_filter)
        self.outputs = outputs or OutputLengths()
        self.kept_bytes = 0

    def priority(self, controls: Controls) -> int:
        priority = self.objectives.priority(controls.objective)
        if not controls.known_tenant:
            priority = min(priority, self.objectives.priority(""))
        return priority
