"""The running process of `epp route-by-model`: builds its rooms, serves, and drains when asked to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Final

import grpc.aio

from epp.bodyrouting.basemodels import BaseModels
from epp.bodyrouting.cluster import ModelCluster, is_known
from epp.bodyrouting.door import BodyDoor
from epp.bodyrouting.files import BaseModelsFile
from epp.bodyrouting.metrics import BodyMetrics
from epp.bodyrouting.steps import BASE_MODEL, DEFAULT, Step
from epp.extproc import native
from epp.extproc.certificates import serving
from epp.extproc.drain import Drain
from epp.extproc.grpcio import GrpcioTransport
from epp.extproc.health import Health, serve_health
from epp.extproc.native import NativeTransport
from epp.extproc.transport import Transport
from epp.telemetry.otel import open_tracer
from epp.web.server import Listener, WebOptions

log = logging.getLogger("epp.bodyrouting")

_SERVICE_NAME: Final = "epp-route-by-model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The flags of `epp route-by-model`, in their units."""

    steps: tuple[Step, ...] = DEFAULT
    bind_address: str = "[::]"
    transport: str = ""
    """`native` or `grpcio`; empty for native where it is installed."""
    grpc_port: int = 9004
    grpc_health_port: int = 9005
    secure_serving: bool = True
    cert_path: Path | None = None
    cert_reload: bool = False
    web: WebOptions = field(default_factory=WebOptions)
    drain_timeout_s: float = 30.0
    base_models_file: Path | None = None
    kubeconfig: Path | None = None
    namespace: str | None = None
    """Whose ConfigMaps are read; None for every namespace's."""
    tracing: bool = True
    notices: tuple[str, ...] = ()


class BodyRouting:
    """One running service."""

    def __init__(self, options: Options, environ: Mapping[str, str] | None = None) -> None:
        """Raises ValueError or OSError for options that cannot be used."""
        self.options = options
        self._environ = os.environ if environ is None else environ
        self.models = BaseModels()
        self.metrics = BodyMetrics(options.steps, build_ref=version("inference-epp"))
        self.metrics.watch_base_models(lambda: len(self.models))
        self.tracer = open_tracer(options.tracing, {"OTEL_SERVICE_NAME": _SERVICE_NAME, **self._environ})
        self.door = BodyDoor(options.steps, self.models, self.metrics, self.tracer, perf_counter)
        self.transport_name = options.transport or ("native" if native.is_built() else "grpcio")
        self.transport = self._transport()
        self.metrics.watch_transport(self.transport_name, self.transport.collect)
        self.health = Health(lambda: not self.missing())
        self.base_models_file: BaseModelsFile | None = None
        self.cluster: ModelCluster | None = None
        self._notices = (*options.notices, *self._find_base_models())
        self.web = Listener(options.web, metrics=self.metrics, ready=self.missing, reviewer=self.cluster)
        self.health_port = 0
        self._health_server: grpc.aio.Server | None = None
        self.drain = Drain(options.drain_timeout_s)

    def _transport(self) -> Transport:
        options = self.options
        address = f"{options.bind_address}:{options.grpc_port}"
        made = NativeTransport if self.transport_name == "native" else GrpcioTransport
        return made(
            self.door,
            address=address,
            sink=self.metrics,
            new_id=lambda: str(uuid.uuid4()),
            tls=serving(options.secure_serving, options.cert_path),
            reload_tls=options.cert_reload,
        )

    # -- base models -------------------------------------------------------------------------------------

    def _find_base_models(self) -> tuple[str, ...]:
        """From the file if one is named, else from the cluster if one is known; notices for the start."""
        options = self.options
        wanted = any(step.type == BASE_MODEL for step in options.steps)
        known = is_known(options.kubeconfig, self._environ)
        follows = wanted and options.base_models_file is None and known
        reviews = options.web.auth and options.web.token_file is None and known
        if follows or reviews:
            models = self.models if follows else None
            self.cluster = ModelCluster(options.kubeconfig, options.namespace, self._environ, models)
        if options.base_models_file is not None:
            if not wanted:
                return (f"--base-models-file has no effect: no plugin is a {BASE_MODEL}",)
            self.base_models_file = BaseModelsFile(options.base_models_file, self.models)
        elif wanted and not follows:
            return (
                "no base models are known: there is no cluster to ask for ConfigMaps (this is no pod, and "
                "neither --kubeconfig nor KUBECONFIG is set) and no --base-models-file; the header of the "
                "base model is only ever taken off",
            )
        return ()

    def missing(self) -> Sequence[str]:
        """What is missing until we are ready; nothing means ready."""
        reasons = []
        if self.cluster is not None and (missing := self.cluster.missing()):
            reasons.append(missing)
        if self.drain.begun:
            reasons.append("shutting down")
        return reasons

    # -- running -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until stopped. Raises OSError for taken ports, ValueError for a wrong file or kubeconfig."""
        file = self.base_models_file
        if file is not None:
            try:
                file.load()
            except ValueError as error:
                raise ValueError(f"--base-models-file: {error}") from error
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
            async with asyncio.TaskGroup() as tasks:
                sources = [source for source in (file, self.cluster) if source is not None]
                owned = [tasks.create_task(source.run()) for source in sources]
                self._say_started()
                await self.drain.over(self.transport)
                for task in owned:
                    task.cancel()
        finally:
            await self._close()

    def stop(self, *, patient: bool) -> None:
        """Begin to drain; asked twice, end at once. `patient`: gateways get a moment to notice."""
        self.drain.stop(patient=patient)

    async def _close(self) -> None:
        await self.transport.stop(0.0)
        if self._health_server is not None:
            await self._health_server.stop(0)
        await self.web.stop()
        if self.cluster is not None:
            await self.cluster.close()
        await asyncio.to_thread(self.tracer.close)
        log.info("stopped")

    def _say_started(self) -> None:
        options = self.options
        for notice in (*self._notices, *self.web.notices):
            log.warning("%s", notice)
        for notice in self.tracer.notices:
            log.info("%s", notice)
        log.info(
            "serving ext_proc on port %d (%s, %s), gRPC health on %d, metrics on %d; %s",
            self.transport.port,
            self.transport_name,
            "TLS" if options.secure_serving else "plain text",
            self.health_port,
            self.web.port,
            ", ".join(f"{step.field} -> {step.header} ({step.type})" for step in options.steps),
        )
