"""What one configuration makes of a pool: its policy, its queues, and who asks its endpoints.

A reload puts another generation in its place. Requests that are on their way end in the one that began them;
what is known of the pool lasts and is handed from one to the next, as are plugins and queues whose
configuration did not change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from time import perf_counter

from epp.adapters import PluginCounts, Reach, ScrapeCounts, SizedIndex, entries_of
from epp.admission.gate import Gate
from epp.config.loaded import Loaded
from epp.datalayer.models import ModelProbe, ModelProber
from epp.datalayer.observation.observation import SettledLedger
from epp.datalayer.pace import DEFAULT_INTERVAL_S
from epp.datalayer.scrape import Scraper
from epp.datalayer.scraped import Joined
from epp.director import Director
from epp.domain.controls import DEFAULT_FLOW
from epp.domain.views import Clock, EndpointObserver
from epp.feeds import open_trust
from epp.flowcontrol import open_queues, show_flow
from epp.known import Known
from epp.parsing.select import Parsers
from epp.queues import Queues
from epp.rooms import Settings
from epp.telemetry.metrics import Metrics
from epp.telemetry.reasons import DecisionLog
from epp.telemetry.refusals import RefusalLog
from epp.telemetry.tracing import Tracer
from epp.web.flow import FlowPage

log = logging.getLogger("epp.generation")

TIMED_EVERY = 32
"""Plugins are timed in one of so many decisions: timing them all costs a tenth of a decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What all pools of a process share."""

    metrics: Metrics
    tracer: Tracer
    decisions: DecisionLog
    refusals: RefusalLog
    scraper: Scraper
    prober: ModelProber
    chance: Random
    clock: Clock
    environ: Mapping[str, str]
    waiting: Callable[[object, bool], None]
    """Told for each queues, by a token, when something begins to wait for others to end there, and when
    nothing does. Over a reload one pool may have several."""
    many: bool = False
    """There are several pools, so whoever looks is told which."""
    scrape_interval_s: float | None = None
    staleness_s: float = 2.0
    subset_filter: bool = True
    emit_scores: bool = False


class Generation:
    """Everything of a pool that a configuration decides. `begin` it once the one before has left."""

    def __init__(
        self, label: str, loaded: Loaded, known: Known, services: Services, before: Generation | None = None
    ) -> None:
        """Raises ValueError or OSError for what cannot be used; `before` is untouched then."""
        self.label = label
        self.loaded = loaded
        self._known = known
        self._services = services
        own, metrics, clock = loaded.own, services.metrics, services.clock
        self.trust, self.secret_file = open_trust(own.trust, services.environ)
        self.scheduler = loaded.scheduler(
            known.ledger, clock=perf_counter, sink=PluginCounts(metrics), timed_every=TIMED_EVERY
        )
        self.detector = loaded.detector.plugin
        self.page: FlowPage | None = None
        self.queues: Queues | None
        if before is not None and before._same_queues(loaded):
            self.queues, self.page = before.queues, before.page
        else:
            self.queues = open_queues(
                loaded, store=known.store, ledger=known.ledger, clock=clock, chance=services.chance
            )
        self._scrapes: Joined | None = None
        self.models: ModelProbe | None = None
        if before is not None and before.loaded.data is loaded.data:
            self._scrapes, self.models = before._scrapes, before.models
        else:
            self._ask()
        self.director = Director(
            parsers=Parsers(loaded.parsers),
            scheduler=self.scheduler,
            gate=Gate(self.detector, known.ledger),
            store=known.store,
            ledger=known.ledger,
            outliers=known.outliers,
            models=self.models,
            observation=known.observation,
            queues=self.queues,
            trust=self.trust,
            objectives=known.objectives,
            rewrites=known.rewrites,
            homes=known.homes,
            outputs=known.outputs,
            metrics=metrics,
            tracer=services.tracer,
            decisions=services.decisions.of(label) if services.many else services.decisions,
            refusals=services.refusals.of(label) if services.many else services.refusals,
            settings=Settings(services.subset_filter, services.emit_scores, own.reasons_header),
            clock=clock,
            seed=partial(services.chance.getrandbits, 32),
        )

    def _same_queues(self, loaded: Loaded) -> bool:
        return self.loaded.flow is loaded.flow and self.loaded.detector.plugin is loaded.detector.plugin

    def _ask(self) -> None:
        """Whoever is in the pool is asked how busy it is, and for its models. Raises OSError."""
        known, services, data = self._known, self._services, self.loaded.data
        errors = ScrapeCounts(services.metrics)
        if data.scrape is not None:
            interval_s = data.scrape.interval_s or services.scrape_interval_s or DEFAULT_INTERVAL_S
            self._scrapes = services.scraper.join(
                known.store,
                source=data.scrape.source,
                engines=data.engines,
                interval_s=interval_s,
                errors=errors,
                reachability=None if known.outliers is None else Reach(known.outliers, services.metrics),
                first_tokens=known.observation,
            )
        if data.models is not None:
            try:
                self.models = services.prober.join(known.store, source=data.models, errors=errors)
            except OSError:
                self.leave()
                raise

    def begin(self) -> FlowPage:
        """From now on requests come here. Returns the page that shows its queues."""
        known, services = self._known, self._services
        metrics, clock = services.metrics, services.clock
        metrics.pin_flows((DEFAULT_FLOW, *(self.trust.tenants or ())), pool=self.label)
        metrics.config_notices(len(self.loaded.notices), pool=self.label)
        metrics.unwatch_prefix_indexes(self.label)
        for step in self.loaded.plugins:
            if isinstance(step.plugin, SizedIndex):
                size = partial(entries_of, step.plugin)
                metrics.watch_prefix_index(step.name, step.type_name, size, pool=self.label)
        if self.queues is None:
            metrics.unwatch_flow_control(self.label)
        if self.page is None:
            if self.queues is not None:
                self.queues.on_waiting = partial(services.waiting, object())
            self.page = show_flow(
                self.loaded, self.queues, metrics=metrics, pool=self.label, store=known.store,
                inflight=known.ledger, clock=clock,
            )  # fmt: skip
        return self.page

    @property
    def asked(self) -> bool:
        """How busy the endpoints are was looked at, all of them."""
        return self._scrapes is None or self._scrapes.asked

    def leave(self, after: Generation | None = None) -> None:
        """No request begins here any more; what `after` has taken over goes on."""
        if self._scrapes is not None and (after is None or after._scrapes is not self._scrapes):
            self._scrapes.leave()
        if self.models is not None and (after is None or after.models is not self.models):
            self.models.leave()

    def forget(self, slot: int) -> None:
        """EndpointObserver: the slot is freed, or given to another."""
        self.scheduler.forget(slot)
        if isinstance(self.detector, EndpointObserver):
            try:
                self.detector.forget(slot)
            except Exception:  # published by anybody; the pool's endpoints must be what they are all the same
                log.exception("plugin %s failed to forget an endpoint", self.loaded.detector.name)
                self._services.metrics.plugin_fault(self.loaded.detector.name)


def settled(known: Known, clock: Clock) -> SettledLedger:
    """The pool's ledger for readers outside of a request."""
    return SettledLedger(known.ledger, known.observation, clock)
