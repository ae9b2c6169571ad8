"""gRPC health, with the service names that charts and gateways probe.

`liveness` is served as long as the process is well enough to answer. Every other name, unknown ones too,
tells whether requests should come: probes of different charts use `readiness`, `inference-extension`, the
ext_proc service or no name at all.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

LIVENESS = "liveness"
_NAMES = ("", LIVENESS, "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor")


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Check and List; Watch is left unimplemented, as probes poll."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self.ready = ready

    def register(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: object
    ) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def List(self, request: object, context: object) -> health_pb2.HealthListResponse:  # noqa: N802
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in _NAMES}
        return health_pb2.HealthListResponse(statuses=statuses)

    def _status(self, service: str) -> int:
        known = health_pb2.HealthCheckResponse
        return int(known.SERVING if service == LIVENESS or self.ready() else known.NOT_SERVING)


async def serve_health(health: Health, address: str) -> tuple[grpc.aio.Server, int]:
    """Plain-text health server on a port of its own; raises OSError when the port cannot be had."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    health.register(server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    await server.start()
    return server, port
