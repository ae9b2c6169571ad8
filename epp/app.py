"""Composition root: builds every room, hands views and sinks down, and owns the running process.

Start: configuration -> pools -> endpoints known -> listeners. Stop (SIGTERM, SIGINT): not ready at once, but
requests are still taken; when no stream is open any more, or at the deadline, the listeners close.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from random import Random
from time import monotonic

import grpc.aio

from epp.clustered import Clustered
from epp.config.loaded import Loaded
from epp.config.own import OwnBlock
from epp.config.sources import PoolConfigs
from epp.datalayer.models import ModelProber
from epp.datalayer.pace import Pace
from epp.datalayer.scrape import Scraper
from epp.domain.views import Door
from epp.extproc.drain import Drain
from epp.extproc.health import Health, serve_health
from epp.feeds import Files, files_of, open_trust
from epp.generation import Services
from epp.listeners import open_transport, transport_name
from epp.options import Options as Options
from epp.parsing.select import Parsers
from epp.pool import Pool, open_pool
from epp.pools import OnePool, Pools
from epp.shown import Shown
from epp.telemetry.metrics import Limits as MetricLimits
from epp.telemetry.metrics import Metrics
from epp.telemetry.otel import open_tracer
from epp.telemetry.reasons import DecisionLog
from epp.telemetry.refusals import RefusalLog
from epp.web.models import ModelsServer
from epp.web.server import WebServer
from epp.web.tls import ServerTls

log = logging.getLogger("epp.app")

_LAST_WORDS_S = 1.0
"""For the answers of those who wait when the deadline comes."""
_EVERYBODY = (
    "objectives, fairness ids, TTLs and SLOs in headers are taken from everybody whom the gateway lets send "
    "them; `trust` in the `epp:` block says from whom to take them"
)
_MANY_METERS = 10_000
"""Label sets of requests with many pools; with one it is 2,000."""
_PINS = 100
"""Pools whose models are looked at in one second."""


class App:
    """One running picker."""

    def __init__(
        self, options: Options, configs: PoolConfigs, environ: Mapping[str, str] | None = None
    ) -> None:
        """Raises ValueError or OSError for options that cannot be used."""
        self.options = options
        self.configs = configs
        loaded = configs.default
        own = loaded.own
        self.drain = Drain(options.drain_timeout_s)
        environ = os.environ if environ is None else environ
        self.metrics = Metrics(
            build_ref=version("inference-epp"),
            stream_metrics=options.stream_metrics,
            limits=_limits(own, many=options.kube is not None and options.kube.many),
        )
        self.tracer = open_tracer(options.tracing, environ)
        self._waiting: set[object] = set()
        self._begun = False
        """All pools that were there at the start are known, with how busy they are."""
        self.services = Services(
            metrics=self.metrics,
            tracer=self.tracer,
            decisions=DecisionLog(own.decision_log_size),
            refusals=RefusalLog(),
            scraper=Scraper(pace=Pace(budget=own.scrape.cpu_share)),
            prober=ModelProber(),
            chance=Random(secrets.randbits(64)),
            clock=monotonic,
            environ=environ,
            waiting=self._hurry,
            many=options.kube is not None and options.kube.many,
            scrape_interval_s=options.scrape_interval_s,
            staleness_s=options.staleness_s,
            subset_filter=options.subset_filter,
            emit_scores=options.emit_scores,
        )
        configs.count(self.metrics.configs)
        self.one: Pool | None = None
        self.many: Pools | None = None
        self.cluster: Clustered | None = None
        kube = options.kube
        if kube is not None and kube.many:
            open_trust(own.trust, environ)  # what no pool could be served with is told now
            self.many = Pools(
                self.services, configs, from_header=kube.trust_pool_header, strict=kube.all_namespaces
            )
            self.cluster = Clustered(kube, options.pool_name, self.many, environ, self.metrics)
        else:
            files = None if kube is not None else self._files(loaded)
            self.one = open_pool(options.pool_name, configs.of("", options.pool_name), self.services, files)
            if kube is not None:
                self.cluster = Clustered(kube, options.pool_name, OnePool(self.one), environ, self.metrics)
        door: Door | None = self.one or self.many
        assert door is not None
        self.health = Health(lambda: not self.missing())
        self.transport_name = transport_name(options)
        self.transport = open_transport(
            options,
            own.limits,
            door,
            sink=self.metrics,
            health=self.health,
            early=loaded.flow is not None or self.many is not None,
            scan=Parsers(loaded.parsers).scannable,
        )
        self.metrics.watch_transport(self.transport_name, self.transport.collect)
        shown = Shown(self.pools, many=self.many is not None)
        self.web = WebServer(
            options.web,
            metrics=self.metrics,
            ready=self.missing,
            decisions=self.services.decisions,
            refusals=self.services.refusals,
            pools=shown,
            reviewer=self.cluster,
        )
        self.models: ModelsServer | None = None
        if options.models_port is not None:
            web = options.web
            self.models = ModelsServer(
                web.host,
                options.models_port,
                shown,
                tls=ServerTls(web.cert_dir) if web.cert_dir else None,
                failed=self.metrics.internal_error,
            )
        self._health_server: grpc.aio.Server | None = None
        self.health_port = 0
        self._notices = (
            *options.notices,
            *(str(notice) for notice in loaded.notices),
            *self.web.notices,
            *((_EVERYBODY,) if own.trust is None else ()),
        )

    def _hurry(self, queues: object, waiting: bool) -> None:
        """While requests wait for others to end anywhere, ends are told at once."""
        before = bool(self._waiting)
        (self._waiting.add if waiting else self._waiting.discard)(queues)
        if bool(self._waiting) is not before:
            self.transport.hurry(not before)

    def _files(self, loaded: Loaded) -> Files:
        return files_of(
            loaded,
            endpoints_file=self.options.endpoints_file,
            objectives_path=self.options.objectives_path,
            pool=self.options.objectives_pool,
        )

    @property
    def pool(self) -> Pool:
        """The one pool, where there is but one."""
        assert self.one is not None
        return self.one

    def pools(self) -> Iterable[Pool]:
        return (self.one,) if self.one is not None else self.many or ()

    def missing(self) -> Sequence[str]:
        """What is missing until we are ready; nothing means ready."""
        reasons = [] if self.cluster is None else list(self.cluster.missing())
        if not self._begun and not reasons:
            if self.one is not None:
                reasons += self.one.missing()
            else:
                reasons += next((said for pool in self.pools() if (said := pool.beginning())), ())
                self._begun = not reasons
        if self.drain.begun:
            reasons.append("shutting down")
        return reasons

    async def run(self) -> None:
        """Serve until stopped. Raises OSError for taken ports, EndpointsFileError and ObjectivesError for
        what is wrong in the first files."""
        if self.one is not None:
            self.one.load()
        try:
            if self.cluster is not None:
                await self.cluster.open()
            await self.transport.start()
            self._health_server, self.health_port = await serve_health(
                self.health, f"{self.options.bind_address}:{self.options.grpc_health_port}"
            )
            try:
                await self.web.start()
            except OSError as error:
                raise OSError(f"--metrics-port {self.options.web.port}: {error}") from error
            if self.models is not None:
                try:
                    await self.models.start()
                except OSError as error:
                    raise OSError(f"--models-port {self.options.models_port}: {error}") from error
            async with asyncio.TaskGroup() as tasks:
                work = [
                    *(() if self.one is None else self.one.work()),
                    *(() if self.cluster is None else self.cluster.work()),
                    self.configs.run(),
                    self.services.scraper.run(),
                    self.services.prober.run(),
                    self._tick(),
                    self._report(),
                ]
                owned = [tasks.create_task(one) for one in work]
                self._say_started()
                await self.drain.over(self.transport, self._resign)
                for task in owned:
                    task.cancel()
        finally:
            await self._close()

    def stop(self, *, patient: bool) -> None:
        """Begin to drain; asked twice, end at once. `patient`: gateways get a moment to notice."""
        self.drain.stop(patient=patient)

    def _resign(self) -> None:
        if self.cluster is not None:
            self.cluster.resign()

    async def _close(self) -> None:
        grace_s = 0.0
        if sum([pool.shutdown() for pool in self.pools()]):
            grace_s = _LAST_WORDS_S
        await self.transport.stop(grace_s)
        if self._health_server is not None:
            await self._health_server.stop(0)
        await self.web.stop()
        if self.models is not None:
            await self.models.stop()
        if self.cluster is not None:
            await self.cluster.close()
        await asyncio.to_thread(self.tracer.close)
        log.info("stopped")

    async def _tick(self) -> None:
        """What pools do by the clock: one loop for all of them."""
        while True:
            await asyncio.sleep(0.1)
            now = monotonic()
            for pool in self.pools():
                pool.tick(now)

    async def _report(self) -> None:
        """Scraping's pace, for the metrics page and, where it changed, the log; the pools' models by name."""
        said = 0.0
        turn = 0
        frozen = self.cluster is None
        while True:
            await asyncio.sleep(1.0)
            pools = list(self.pools())
            if not frozen and not self.missing():
                # All is there that the process began for: the collector need not look at it any more.
                gc.collect()
                gc.freeze()
                frozen = True
            for pool in (pools[turn:] + pools[:turn])[:_PINS]:
                pool.pin_models()
            turn = (turn + _PINS) % max(1, len(pools))
            scraper = self.services.scraper
            self.metrics.scrape_interval(scraper.interval_s)
            if scraper.interval_s == said:
                continue
            state = scraper.state(monotonic())
            if state.answering:
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
            self.health_port, self.web.port, sum(len(pool.known.store) for pool in self.pools()),
        )  # fmt: skip


def _limits(own: OwnBlock, *, many: bool) -> MetricLimits:
    """Of label sets: more pools have more models."""
    limits = MetricLimits(meters=_MANY_METERS) if many else MetricLimits()
    return limits if own.trust is None else replace(limits, flows=own.trust.max_fairness_ids)
