"""Composition root: builds every room, hands views and sinks down, and owns the running process.

Start: configuration -> rooms -> endpoints known -> listeners. Stop (SIGTERM, SIGINT): not ready at once, but
requests are still taken; when no stream is open any more, or at the deadline, the listeners close.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from time import monotonic, perf_counter

import grpc.aio

from epp.adapters import PluginCounts, Reach, ScrapeCounts, SizedIndex, entries_of
from epp.admission.gate import Gate
from epp.config.loaded import Loaded
from epp.config.own import Observe, OwnBlock
from epp.datalayer.inflight import Ledger
from epp.datalayer.objectives import Objectives
from epp.datalayer.observation.gateways import Mode
from epp.datalayer.observation.observation import Observation, Rules, SettledLedger
from epp.datalayer.outliers import Outliers, recover
from epp.datalayer.store import Store
from epp.director import Director
from epp.domain.controls import DEFAULT_FLOW
from epp.domain.views import EndpointObserver
from epp.extproc import native
from epp.extproc.certificates import from_directory, self_signed
from epp.extproc.grpcio import GrpcioTransport
from epp.extproc.health import Health, serve_health
from epp.extproc.native import NativeTransport
from epp.extproc.transport import Limits, Tls, Transport
from epp.feeds import Feeds, open_trust
from epp.flowcontrol import open_queues, show_flow
from epp.parsing.select import Parsers
from epp.rooms import Settings
from epp.telemetry.metrics import Limits as MetricLimits
from epp.telemetry.metrics import Metrics
from epp.telemetry.otel import open_tracer
from epp.telemetry.reasons import DecisionLog
from epp.web.server import WebOptions, WebServer

log = logging.getLogger("epp.app")

_QUIET_S = 3.0
"""A picker without open streams goes this long after SIGTERM: gateways check health every second or two."""
_LAST_WORDS_S = 1.0
"""For the answers of those who wait when the deadline comes."""
_EVERYBODY = (
    "objectives, fairness ids, TTLs and SLOs in headers are taken from everybody whom the gateway lets send "
    "them; `trust` in the `epp:` block says from whom to take them"
)
_TICK_S = 0.05
_TIMED_EVERY = 32
"""Plugins are timed in one of so many decisions: timing them all costs a tenth of a decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The flags of `epp serve`, in their units."""

    pool_name: str = "default"
    bind_address: str = "[::]"
    transport: str = ""
    """`native` or `grpcio`; empty for native where it is installed."""
    grpc_port: int = 9002
    grpc_health_port: int = 9003
    health_checking: bool = False
    grpc_reflection: bool = False
    grpc_max_recv_bytes: int = 0
    grpc_max_send_bytes: int = -1
    stream_metrics: bool = False
    secure_serving: bool = True
    cert_path: Path | None = None
    cert_reload: bool = False
    web: WebOptions = field(default_factory=WebOptions)
    drain_timeout_s: float = 30.0
    endpoints_file: Path | None = None
    objectives_path: Path | None = None
    objectives_pool: str = ""
    """Only its objectives count; empty for every pool's."""
    scrape_interval_s: float | None = None
    staleness_s: float = 2.0
    subset_filter: bool = True
    emit_scores: bool = False
    tracing: bool = True
    notices: tuple[str, ...] = ()


def _given(path: str) -> Path | None:
    return Path(path) if path else None


def _new_id() -> str:
    return str(uuid.uuid4())


class App:
    """One running picker."""

    def __init__(self, options: Options, loaded: Loaded, environ: Mapping[str, str] | None = None) -> None:
        """Raises ValueError or OSError for options that cannot be used."""
        self.options = options
        own = loaded.own
        self.transport_name = options.transport or ("native" if native.is_built() else "grpcio")
        self._draining = False
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._patient = True
        environ = os.environ if environ is None else environ
        self.metrics = Metrics(
            build_ref=version("inference-epp"),
            stream_metrics=options.stream_metrics,
            limits=MetricLimits() if own.trust is None else MetricLimits(flows=own.trust.max_fairness_ids),
        )
        self.ledger = Ledger()
        self.outliers = None
        if own.outliers.enabled:
            self.outliers = Outliers(
                Random(secrets.randbits(64)), base_s=own.outliers.base_time, cap_s=own.outliers.max_time
            )
        self.observation = _observation(own.observe, self.ledger)
        self.store = Store(observers=[self.ledger, self.observation], health=self.outliers)
        self.scheduler = loaded.scheduler(
            self.ledger, clock=perf_counter, sink=PluginCounts(self.metrics), timed_every=_TIMED_EVERY
        )
        self.store.observe(self.scheduler)
        self.decisions = DecisionLog(own.decision_log_size)
        self.objectives = Objectives(own.objectives.default_priority)
        self.trust, self._secret_file = open_trust(own.trust, environ)
        self.metrics.pin_flows((DEFAULT_FLOW, *(self.trust.tenants or ())))
        self.tracer = open_tracer(options.tracing, environ)
        self.feeds = Feeds(
            loaded.data,
            self.store,
            endpoints_file=options.endpoints_file,
            scrape_interval_s=options.scrape_interval_s,
            scrape_budget=own.scrape.cpu_share,
            errors=ScrapeCounts(self.metrics),
            reachability=None if self.outliers is None else Reach(self.outliers, self.metrics),
            first_tokens=self.observation,
            objectives=self.objectives,
            objectives_path=options.objectives_path or _given(own.objectives.path),
            pool=options.objectives_pool,
        )
        settled = SettledLedger(self.ledger, self.observation, monotonic)
        self.metrics.watch_pool(options.pool_name, self.store, settled, monotonic, options.staleness_s)
        self.metrics.watch_answers(self.observation)
        for step in loaded.plugins:
            if isinstance(step.plugin, SizedIndex):
                self.metrics.watch_prefix_index(step.name, step.type_name, partial(entries_of, step.plugin))
        chance = Random(secrets.randbits(64))
        self.queues = open_queues(
            loaded,
            store=self.store,
            ledger=self.ledger,
            objectives=self.objectives,
            clock=monotonic,
            chance=chance,
        )
        self.director = director = Director(
            parsers=Parsers(loaded.parsers),
            scheduler=self.scheduler,
            gate=Gate(loaded.detector.plugin, self.ledger),
            store=self.store,
            ledger=self.ledger,
            outliers=self.outliers,
            models=self.feeds.models,
            observation=self.observation,
            queues=self.queues,
            trust=self.trust,
            objectives=self.objectives,
            metrics=self.metrics,
            tracer=self.tracer,
            decisions=self.decisions,
            settings=Settings(options.subset_filter, options.emit_scores, own.reasons_header),
            clock=monotonic,
            seed=partial(chance.getrandbits, 32),
        )
        self.health = Health(lambda: not self.missing())
        self.transport = self._transport(director, own)
        self.metrics.watch_transport(self.transport_name, self.transport.collect)
        if self.queues is not None:
            self.queues.on_waiting = self.transport.hurry
        if isinstance(loaded.detector.plugin, EndpointObserver):
            self.store.observe(loaded.detector.plugin)
        self.web = WebServer(
            options.web,
            metrics=self.metrics,
            ready=self.missing,
            plugins_state=self.scheduler.dump_state,
            decisions=self.decisions,
            refusals=self.director.refusals,
            flow=show_flow(
                loaded,
                self.queues,
                metrics=self.metrics,
                pool=options.pool_name,
                store=self.store,
                inflight=self.ledger,
                clock=monotonic,
            ),
        )
        self._health_server: grpc.aio.Server | None = None
        self.health_port = 0
        self._notices = (
            *options.notices,
            *(str(notice) for notice in loaded.notices),
            *self.web.notices,
            *((_EVERYBODY,) if own.trust is None else ()),
        )
        self.metrics.config_notices(len(loaded.notices))

    def _transport(self, director: Director, own: OwnBlock) -> Transport:
        options = self.options
        limits = Limits(
            max_body_bytes=own.limits.max_body_bytes,
            max_buffered_bytes=own.limits.max_buffered_bytes,
            max_streams=own.limits.max_streams,
            progress_timeout_s=own.limits.progress_timeout,
            answer_timeout_s=own.limits.answer_timeout,
            max_message_bytes=options.grpc_max_recv_bytes,
        )
        address = f"{options.bind_address}:{options.grpc_port}"
        tls = self._tls()
        if self.transport_name == "native":
            return NativeTransport(
                director,
                address=address,
                sink=self.metrics,
                new_id=_new_id,
                limits=limits,
                tls=tls,
                reload_tls=options.cert_reload,
                ready=(lambda: not self.missing()) if options.health_checking else None,
                scan=director.parsers.scannable,
                early=self.queues is not None,
            )
        return GrpcioTransport(
            director,
            address=address,
            sink=self.metrics,
            new_id=_new_id,
            limits=limits,
            tls=tls,
            reload_tls=options.cert_reload,
            reflection=options.grpc_reflection,
            servicers=(self.health.register,) if options.health_checking else (),
            max_send_bytes=options.grpc_max_send_bytes,
        )

    def _tls(self) -> Callable[[], Tls] | None:
        if not self.options.secure_serving:
            return None
        if self.options.cert_path is not None:
            source = from_directory(self.options.cert_path)
            try:
                source()
            except (OSError, ValueError) as error:
                raise ValueError(f"--cert-path {self.options.cert_path}: {error}") from error
            return source
        pair = self_signed()
        return lambda: pair

    def missing(self) -> Sequence[str]:
        """What is missing until we are ready; nothing means ready."""
        reasons = []
        if not self.store.synced:
            reasons.append("the pool's endpoints are not known yet")
        if self._draining:
            reasons.append("shutting down")
        return reasons

    async def run(self) -> None:
        """Serve until stopped. Raises OSError for taken ports, EndpointsFileError and ObjectivesError for
        what is wrong in the first files."""
        self.feeds.load()
        await self.transport.start()
        try:
            self._health_server, self.health_port = await serve_health(
                self.health, f"{self.options.bind_address}:{self.options.grpc_health_port}"
            )
            try:
                await self.web.start()
            except OSError as error:
                raise OSError(f"--metrics-port {self.options.web.port}: {error}") from error
            async with asyncio.TaskGroup() as tasks:
                owned = [
                    *(tasks.create_task(work) for work in self.feeds.work()),
                    tasks.create_task(self._report()),
                ]
                if self._secret_file is not None:
                    owned.append(tasks.create_task(self._secret_file.run()))
                if self.outliers is not None:
                    owned.append(tasks.create_task(recover(self.outliers, monotonic)))
                self._say_started()
                await self._until_drained()
                for task in owned:
                    task.cancel()
        finally:
            await self._close()

    def stop(self, *, patient: bool) -> None:
        """Begin to drain; asked twice, end at once. `patient`: gateways get a moment to notice."""
        if self._stop.is_set():
            self._stop_now.set()
        self._patient = patient
        self._stop.set()

    def stop_on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self.stop(patient=True))
        loop.add_signal_handler(signal.SIGINT, lambda: self.stop(patient=False))

    async def _until_drained(self) -> None:
        await self._stop.wait()
        self._draining = True
        deadline = monotonic() + self.options.drain_timeout_s
        log.info(
            "draining for at most %g s, open streams: %d",
            self.options.drain_timeout_s,
            self.transport.open_streams,
        )
        quiet_since, opened = monotonic(), self.transport.opened_streams
        while not self._stop_now.is_set() and (now := monotonic()) < deadline:
            if self.transport.open_streams or self.transport.opened_streams != opened:
                quiet_since, opened = now, self.transport.opened_streams
            elif now - quiet_since >= (_QUIET_S if self._patient else 0.0):
                break
            await asyncio.sleep(_TICK_S)

    async def _close(self) -> None:
        grace_s = 0.0
        if self.queues is not None and self.queues.shutdown():
            grace_s = _LAST_WORDS_S
        await self.transport.stop(grace_s)
        if self._health_server is not None:
            await self._health_server.stop(0)
        await self.web.stop()
        await asyncio.to_thread(self.tracer.close)
        log.info("stopped")

    async def _report(self) -> None:
        """Scraping's pace, for the metrics page and, where it changed, the log; the pool's models by name."""
        said = 0.0
        shown: object = None
        while True:
            await asyncio.sleep(1.0)
            self.observation.settle(monotonic())
            models = self.store.snapshot.models
            if models is not shown:
                shown = models
                # Names that clients make up cannot crowd these out of the metrics.
                self.metrics.pin_models(name for names in models if names for name in names)
            scraper = self.feeds.scraper
            if scraper is None:
                continue
            state = scraper.state(monotonic())
            self.metrics.scrape_interval(state.interval_s)
            if state.answering and state.interval_s != said:
                said = state.interval_s
                log.info(
                    "scraping %d endpoints every %.0f ms (%.0f us each, %.0f%% of a core), %.0f ms old",
                    state.endpoints, state.interval_s * 1e3, state.cost_s * 1e6, state.share * 100,
                    state.mean_age_s * 1e3,
                )  # fmt: skip

    def _say_started(self) -> None:
        for notice in self._notices:
            log.warning("%s", notice)
        for notice in self.tracer.notices:
            log.info("%s", notice)
        log.info(
            "serving ext_proc on port %d (%s, %s), gRPC health on %d, metrics on %d; %d endpoints",
            self.transport.port, self.transport_name, "TLS" if self.options.secure_serving else "plain text",
            self.health_port, self.web.port, len(self.store),
        )  # fmt: skip


def _observation(own: Observe, ledger: Ledger) -> Observation:
    always = own.always
    return Observation(
        ledger,
        Random(secrets.randbits(64)),
        mode=Mode(own.mode),
        rules=Rules(always.header.lower(), frozenset(always.models), frozenset(always.objectives)),
        interval_s=own.sample_interval,
        rate=own.samples_per_second,
        prefill_rate=own.prefill_tokens_per_second,
    )
