"""gRPC health, with the service names that charts and gateways probe.

Any name gets the same answer, unknown ones too: probes of different charts use `inference-extension`,
`liveness`, `readiness`, the ext_proc service or no name at all.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_NAMES = ("", "liveness", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor")


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Check and List; Watch is left unimplemented, as probes poll."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    def register(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    async def Check(self, request: object, context: object) -> health_pb2.HealthCheckResponse:  # noqa: N802
        return health_pb2.HealthCheckResponse(status=self._status())

    async def List(self, request: object, context: object) -> health_pb2.HealthListResponse:  # noqa: N802
        status = health_pb2.HealthCheckResponse(status=self._status())
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(_NAMES, status))

    def _status(self) -> int:
        known = health_pb2.HealthCheckResponse
        return int(known.SERVING if self._ready() else known.NOT_SERVING)


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
