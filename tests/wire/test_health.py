"""gRPC health on a port of its own."""

from __future__ import annotations

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from epp.extproc.health import Health, serve_health


async def test_health_answers_any_name() -> None:
    ready = [False]
    server, port = await serve_health(Health(lambda: ready[0]), "127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            serving_status = health_pb2.HealthCheckResponse.SERVING
            for state in (False, True):
                ready[0] = state
                for name in ("", "liveness", "readiness", "inference-extension", "anything"):
                    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                    assert (answer.status == serving_status) is state
            listed = await stub.List(health_pb2.HealthListRequest())
            assert "envoy.service.ext_proc.v3.ExternalProcessor" in listed.statuses
    finally:
        await server.stop(0)
