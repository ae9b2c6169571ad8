"""gRPC health on a port of its own."""

from __future__ import annotations

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from epp.extproc.health import Health, serve_health
from tests.fakes.door import FakeDoor
from tests.wire.transports import TRANSPORTS, serving


async def test_any_name_tells_readiness_but_that_of_liveness() -> None:
    ready = [False]
    server, port = await serve_health(Health(lambda: ready[0]), "127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            serving_status = health_pb2.HealthCheckResponse.SERVING
            for state in (False, True):
                ready[0] = state
                for name in ("", "readiness", "inference-extension", "anything"):
                    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                    assert (answer.status == serving_status) is state
                answer = await stub.Check(health_pb2.HealthCheckRequest(service="liveness"))
                assert answer.status == serving_status
            ready[0] = False
            listed = (await stub.List(health_pb2.HealthListRequest())).statuses
            assert listed["envoy.service.ext_proc.v3.ExternalProcessor"].status != serving_status
            assert listed["liveness"].status == serving_status
    finally:
        await server.stop(0)


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_the_ext_proc_port_can_tell_the_same(kind: str) -> None:
    ready = [False]
    health = Health(lambda: ready[0])
    more = {"servicers": (health.register,)} if kind == "grpcio" else {"ready": health.ready}
    serving_status = health_pb2.HealthCheckResponse.SERVING
    async with (
        serving(kind, FakeDoor(), **more) as (served, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        for state in (False, True):
            ready[0] = state
            for name in ("", "readiness", "inference-extension", "livenesss", "x" * 5000):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert (answer.status == serving_status) is state
            answer = await stub.Check(health_pb2.HealthCheckRequest(service="liveness"))
            assert answer.status == serving_status
        ready[0] = False
        listed = (await stub.List(health_pb2.HealthListRequest())).statuses
        assert {name for name, one in listed.items() if one.status == serving_status} == {"liveness"}
