"""`epp route-by-model` in this process, over each transport: the reference's integration cases, and ours."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from grpc_health.v1 import health_pb2, health_pb2_grpc

from epp.bodyrouting.service import BodyRouting, Options
from epp.web.server import WebOptions
from tests.fakes.kubeapi import FakeKubeApi
from tests.wire import gateway as gw
from tests.wire.transports import TRANSPORTS

MODEL, BASE, LENGTH = "X-Gateway-Model-Name", "X-Gateway-Base-Model-Name", "content-length"
JSON = {":method": "POST", ":path": "/v1/completions", "content-type": "application/json"}
DUPLEX, BUFFERED, STREAMED = (4, 0), (2, 0), (1, 0)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def running(folder: Path, transport: str, **more: Any) -> AsyncIterator[BodyRouting]:
    names = folder / "base-models.yaml"
    if not names.exists():
        names.write_text("qwen: [foo, bar, sql-lora-sheddable]\n")
    usual: dict[str, Any] = {"secure_serving": False, "web": WebOptions(host="127.0.0.1", port=0, auth=False)}
    options = Options(
        bind_address="127.0.0.1", grpc_port=0, grpc_health_port=0, transport=transport, tracing=False,
        drain_timeout_s=5.0, base_models_file=names, **{**usual, **more},
    )  # fmt: skip
    service = BodyRouting(options, environ={})
    serving = asyncio.ensure_future(service.run())
    async with asyncio.timeout(10):
        while not service.web.listening:
            await asyncio.sleep(0.005)
            if serving.done():
                serving.result()
    try:
        yield service
    finally:
        service.stop(patient=False)
        service.stop(patient=False)
        await serving


EOF: Any = vars(grpc.aio)["EOF"]
"""The published type stubs lack it."""


async def answered(
    service: BodyRouting, *pieces: bytes, modes: tuple[int, int] = DUPLEX, trailers: bool = False
) -> list[pb.ProcessingResponse]:
    """All that comes back for one request up to the stream's end, which is ours to make."""
    async with gw.channel(service.transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(JSON, modes=modes, end=not pieces))
        answers = []
        if modes == BUFFERED:
            answers.append(await call.read())
        for at, piece in enumerate(pieces, 1):
            await call.write(gw.request_body(piece, end=at == len(pieces) and not trailers))
        if trailers:
            await call.write(gw.request_trailers())
        while (answer := await call.read()) is not EOF:
            answers.append(answer)
        assert await call.code() is grpc.StatusCode.OK
    return answers


def said(answer: pb.ProcessingResponse) -> tuple[dict[str, str], list[str]]:
    """Headers that are set and taken off, of an answer that has the route looked for anew."""
    common = getattr(answer, answer.WhichOneof("response")).response
    assert common.clear_route_cache
    assert not answer.HasField("dynamic_metadata")
    return gw.set_headers(answer), list(common.header_mutation.remove_headers)


def echoed(answers: list[pb.ProcessingResponse]) -> bytes:
    pieces = [answer.request_body.response.body_mutation.streamed_response for answer in answers]
    assert [piece.end_of_stream for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(len(piece.body) <= 62_000 for piece in pieces)
    return b"".join(piece.body for piece in pieces)


async def test_a_buffered_request_names_its_model_and_base(tmp_path: Path, transport: str) -> None:
    async with running(tmp_path, transport) as service:
        headers, body = await answered(service, b'{"model":"qwen","prompt":"test"}', modes=BUFFERED)
        assert headers == pb.ProcessingResponse(request_headers=pb.HeadersResponse())
        assert said(body) == ({MODEL: "qwen", BASE: "qwen"}, [])
        assert not body.request_body.response.HasField("body_mutation")


async def test_a_buffered_request_without_a_model(tmp_path: Path, transport: str) -> None:
    async with running(tmp_path, transport) as service:
        _, body = await answered(service, b'{"prompt":"test"}', modes=BUFFERED)
        assert said(body) == ({}, [MODEL, BASE])


@pytest.mark.parametrize(
    ("pieces", "length", "model"),
    [
        ([b'{"max_tokens":100,"model":"foo","prompt":"test","temperature":0}'], "64", "foo"),
        (
            [b'{"max_tokens":100,"model":"sql-lo', b'ra-sheddable","prompt":"test","temperature":0}'],
            "79",
            "sql-lora-sheddable",
        ),
    ],
)
async def test_a_duplex_request(
    tmp_path: Path, transport: str, pieces: list[bytes], length: str, model: str
) -> None:
    async with running(tmp_path, transport) as service:
        headers, *bodies = await answered(service, *pieces)
        assert said(headers) == ({MODEL: model, BASE: "qwen", LENGTH: length}, [])
        assert echoed(bodies) == b"".join(pieces)


async def test_a_duplex_request_without_a_model(tmp_path: Path, transport: str) -> None:
    body = b'{"max_tokens":100,"prompt":"test","temperature":0}'
    async with running(tmp_path, transport) as service:
        headers, *bodies = await answered(service, body)
        assert said(headers) == ({LENGTH: "50"}, [MODEL, BASE])
        assert echoed(bodies) == body


async def test_a_long_body_goes_back_in_limited_pieces(tmp_path: Path, transport: str) -> None:
    body = json.dumps({"model": "foo", "prompt": "x" * 1_000_000}).encode()
    parts = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]
    async with running(tmp_path, transport) as service:
        headers, *bodies = await answered(service, *parts)
        assert said(headers)[0] == {MODEL: "foo", BASE: "qwen", LENGTH: str(len(body))}
        assert echoed(bodies) == body


async def test_a_body_with_trailers(tmp_path: Path, transport: str) -> None:
    async with running(tmp_path, transport) as service:
        headers, body, last = await answered(service, b'{"model":"foo"}', trailers=True)
        assert said(headers)[0] == {MODEL: "foo", BASE: "qwen"}
        assert not body.request_body.response.body_mutation.streamed_response.end_of_stream
        assert last.HasField("request_trailers")


async def test_a_request_without_a_body(tmp_path: Path, transport: str) -> None:
    async with running(tmp_path, transport) as service:
        (headers,) = await answered(service)
        assert said(headers) == ({}, [MODEL, BASE])


async def test_bad_json_is_answered(tmp_path: Path, transport: str) -> None:
    async with running(tmp_path, transport) as service:
        for modes in (DUPLEX, BUFFERED):
            answer = (await answered(service, b'{"model":', modes=modes))[-1]
            assert answer.immediate_response.status.code == 400
            error = json.loads(answer.immediate_response.body)["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
            assert error["message"].startswith("The request body is not valid JSON")


async def test_bodies_that_are_shown_too_late_pass(tmp_path: Path, transport: str) -> None:
    async with running(tmp_path, transport) as service, gw.channel(service.transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(JSON, modes=STREAMED))
        assert said(await call.read()) == ({}, [MODEL, BASE])
        assert await call.read() is EOF
        assert "epp_bodies_not_shown_total 1\n" in "".join(service.metrics.render())


async def test_what_is_counted(tmp_path: Path, transport: str) -> None:
    async with running(tmp_path, transport) as service:
        await answered(service, b'{"model":"foo"}')
        await answered(service, b"{}")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{service.web.port}") as client:
            async with client.get("/metrics") as page:
                lines = (await page.text()).splitlines()
            async with client.get("/metrics", headers={"accept": "application/openmetrics-text"}) as page:
                assert (await page.text()).endswith("# EOF\n")
            async with client.get("/debug/pprof/") as page:
                assert page.status == 200
            async with client.get("/debug/decisions") as page:
                assert page.status == 404
    assert "bbr_success_total 1" in lines
    assert 'bbr_body_field_not_found_total{field="model"} 1' in lines
    assert f'epp_transport_info{{transport="{transport}"}} 1' in lines
    assert "epp_base_models 4" in lines
    assert any(line.startswith('bbr_info{commit="",build_ref="0') for line in lines)
    assert any(line.startswith("process_cpu_seconds_total") for line in lines)


async def test_a_changed_file_counts_and_a_wrong_one_does_not(
    tmp_path: Path, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, transport) as service, asyncio.timeout(10):
        names = tmp_path / "base-models.yaml"
        names.write_text("qwen: 5\n")
        while not any("base models refused" in record.message for record in caplog.records):
            await asyncio.sleep(0.01)
        assert service.models.of("foo") == "qwen"
        names.write_text("llama: [foo]\n")
        while service.models.of("foo") != "llama":
            await asyncio.sleep(0.01)
        headers, _ = await answered(service, b'{"model":"foo"}')
        assert said(headers)[0][BASE] == "llama"


async def test_it_serves_tls_unless_told_otherwise(tmp_path: Path, transport: str) -> None:
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    trusting.set_alpn_protocols(["h2"])
    async with running(tmp_path, transport, secure_serving=True) as service:
        _, writer = await asyncio.open_connection("127.0.0.1", service.transport.port, ssl=trusting)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.transport.abort()  # what it sends by HTTP/2 is of no interest


async def test_a_cluster_that_is_known_says_who_may_read_the_metrics(tmp_path: Path, transport: str) -> None:
    web = WebOptions(host="127.0.0.1", port=0)
    async with FakeKubeApi(plural="configmaps") as api:
        config = api.kubeconfig(tmp_path / "config")
        async with (
            running(tmp_path, transport, web=web, kubeconfig=config) as service,
            aiohttp.ClientSession(f"http://127.0.0.1:{service.web.port}") as client,
        ):
            async with client.get("/metrics") as page:
                assert page.status == 401
            async with client.get("/readyz") as page:
                assert page.status == 200
    assert not any(path.endswith("configmaps") for path, _ in api.requests), "they are not read beside a file"


async def test_it_is_not_ready_while_it_drains(tmp_path: Path, transport: str) -> None:
    async with running(tmp_path, transport) as service:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{service.health_port}")
        async with channel, gw.channel(service.transport.port) as held:
            probe = health_pb2_grpc.HealthStub(channel)
            asked = health_pb2.HealthCheckRequest(service="envoy.service.ext_proc.v3.ExternalProcessor")
            assert (await probe.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING
            call = gw.stream(held)
            await call.write(gw.request_headers(JSON, modes=DUPLEX))
            async with asyncio.timeout(10):
                while not service.transport.open_streams:
                    await asyncio.sleep(0.005)
            service.stop(patient=True)
            async with asyncio.timeout(10):
                while (await probe.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING:
                    await asyncio.sleep(0.005)
            await call.write(gw.request_body(b'{"model":"foo"}', end=True))
            assert said(await call.read())[0][MODEL] == "foo"
            call.cancel()
