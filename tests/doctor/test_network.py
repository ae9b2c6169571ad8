"""Checks that ask somebody, each against a real server that is right, or wrong in one way."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import formatdate
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from epp.doctor.endpoints import Reading, check_endpoints
from epp.doctor.finding import Finding, Level
from epp.doctor.picker import Address, check_health, check_picker
from epp.doctor.request import NOBODY, TEST_HEADER, check_request
from epp.doctor.visit import Cluster, Patient, Visit, nearby
from epp.domain.endpoint import EndpointSpec
from epp.extproc.certificates import self_signed
from epp.extproc.health import Health, serve_health
from tests.fakes.door import FakeDoor
from tests.wire.transports import TRANSPORTS, serving

SERVED = "x-gateway-destination-endpoint-served"
CHOSEN = "x-gateway-destination-endpoint"
VLLM = (
    "vllm:num_requests_waiting 0\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.5\n"
    'vllm:cache_config_info{block_size="16",num_gpu_blocks="9"} 1\n'
)
Answer = Callable[[web.Request], web.Response]


@contextlib.asynccontextmanager
async def listening(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of an HTTP server that answers everything so."""

    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def closed_port() -> int:
    """Nobody listens there any more."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def endpoint(port: int, metrics_port: int | None = None, address: str = "127.0.0.1") -> Finding:
    spec = EndpointSpec("a", address, port, metrics_port=metrics_port)
    async with aiohttp.ClientSession() as client:
        (finding,) = (await check_endpoints(client, [spec], Reading())).findings
    return finding


async def test_an_endpoint_that_is_right() -> None:
    async with (
        listening(lambda request: web.Response(text=VLLM)) as port,
        aiohttp.ClientSession() as client,
    ):
        specs = [EndpointSpec("a", "127.0.0.1", port), EndpointSpec("b", "localhost", port)]
        looked = await check_endpoints(client, specs, Reading())
        assert f"127.0.0.1:{port}" in looked.authorities
        assert [(one.level, one.found) for one in looked.findings] == [(Level.OK, "vllm's metrics")]
        assert all(abs(skew_s) < 5 for skew_s in looked.skews.values())


async def test_a_port_that_nobody_listens_on() -> None:
    finding = await endpoint(await closed_port())
    assert finding.level is Level.ERROR
    assert "cannot be reached" in finding.found


async def test_metrics_that_are_not_there() -> None:
    async with listening(lambda request: web.Response(status=404)) as port:
        finding = await endpoint(port)
        assert (finding.level, finding.found) == (Level.ERROR, f"/metrics at port {port} answers 404")
        finding = await endpoint(port, metrics_port=await closed_port())
        assert (finding.level, "no metrics at port" in finding.found) == (Level.ERROR, True)


async def test_names_of_srv_records_are_left_out() -> None:
    assert (await endpoint(0, address="srv:_http._tcp.vllm.svc")).level is Level.SKIPPED


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_picker_and_what_it_speaks(kind: str) -> None:
    pair = self_signed()
    for tls, said in ((None, "plain text"), (lambda: pair, "TLS")):
        async with serving(kind, FakeDoor(), tls=tls) as (transport, _):
            at = Address("127.0.0.1", transport.port)
            (finding,) = await check_picker(at)
            assert (finding.level, finding.found) == (Level.OK, f"its port is open and speaks {said}")
            (finding,) = await check_picker(at, gateway_tls=tls is not None)
            assert finding.level is Level.OK
            (finding,) = await check_picker(at, gateway_tls=tls is None)
            assert finding.level is Level.ERROR
            assert "every request gets 503" in finding.found


async def test_a_picker_that_is_not_there() -> None:
    (finding,) = await check_picker(Address("127.0.0.1", await closed_port()))
    assert (finding.level, "cannot be reached" in finding.found) == (Level.ERROR, True)
    nowhere = Address("no-such-picker.invalid", 9002)
    (finding,) = await check_picker(nowhere)
    assert (finding.level, "its name is not known" in finding.found) == (Level.ERROR, True)
    (finding,) = await check_picker(nowhere, outside=True)
    assert finding.level is Level.SKIPPED


async def test_a_pickers_health() -> None:
    ready = True
    server, port = await serve_health(Health(lambda: ready), "127.0.0.1:0")
    try:
        at = Address("127.0.0.1", port)
        assert [(one.level, one.found) for one in await check_health(at)] == [(Level.OK, "SERVING")]
        ready = False
        assert [(one.level, one.found) for one in await check_health(at)] == [(Level.WARNING, "NOT_SERVING")]
    finally:
        await server.stop(0)
    (finding,) = await check_health(at)
    assert (finding.level, "no answer" in finding.found) == (Level.ERROR, True)


def gateway(
    *, obeys: bool = False, forged: int = 200, status: int = 200, served: str = "10.0.0.1:8000"
) -> Answer:
    """How a gateway may behave; `obeys` the test header."""

    def answer(request: web.Request) -> web.Response:
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "m"}]})
        if request.headers.get(CHOSEN) == NOBODY:
            return web.Response(status=forged, headers={SERVED: served})
        headers: Mapping[str, str] = {SERVED: served} if served else {}
        if obeys and TEST_HEADER in request.headers:
            headers = {SERVED: request.headers[TEST_HEADER]}
        body = {"error": {"message": "no room"}} if status != 200 else {}
        return web.json_response(body, status=status, headers=headers)

    return answer


ENDPOINTS = ("10.0.0.1:8000", "10.0.0.2:8000")


async def through(answer: Answer, model: str = "m") -> list[Finding]:
    async with listening(answer) as port, aiohttp.ClientSession() as client:
        return await check_request(client, f"http://127.0.0.1:{port}", model, ENDPOINTS, {})


@pytest.mark.parametrize("model", ["m", ""])
async def test_a_request_that_goes_well(model: str) -> None:
    findings = await through(gateway(), model)
    assert [one.level for one in findings] == [Level.OK] * 3
    assert [one.found for one in findings] == [
        "answered by 10.0.0.1:8000", "is not obeyed", "is not obeyed: clients cannot choose",
    ]  # fmt: skip


async def test_a_gateway_for_the_conformance_suite() -> None:
    assert (await through(gateway(obeys=True)))[2].found.startswith("is obeyed")


async def test_requests_that_do_not() -> None:
    (finding,) = await through(gateway(status=429))
    assert (finding.level, finding.found) == (Level.ERROR, "status 429: no room")
    assert (await through(gateway(served="10.9.9.9:1")))[0].level is Level.ERROR
    assert (await through(gateway(served="")))[0].level is Level.WARNING
    assert (await through(gateway(forged=503)))[1].level is Level.ERROR


async def test_a_gateway_that_lists_no_models() -> None:
    def fails(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no endpoints"}}, status=503)

    (finding,) = await through(fails, model="")
    assert (finding.level, finding.found) == (Level.ERROR, "status 503: no endpoints")
    (finding,) = await through(lambda request: web.Response(status=404), model="")
    assert (finding.level, finding.mend) == (Level.SKIPPED, "name one: --model")


async def test_a_gateway_that_is_not_there() -> None:
    async with aiohttp.ClientSession() as client:
        for model in ("m", ""):
            url = f"http://127.0.0.1:{await closed_port()}"
            (finding,) = await check_request(client, url, model, ENDPOINTS, {})
            assert finding.level is Level.ERROR


async def visited(patient: Patient) -> list[Finding]:
    visit = Visit(patient, {})
    await visit.run()
    return visit.findings


async def test_clocks_of_engines_that_are_off(tmp_path: Path) -> None:
    late = {"Date": formatdate(1000, usegmt=True)}
    async with listening(lambda request: web.Response(text=VLLM, headers=late)) as port:
        endpoints = tmp_path / "endpoints.yaml"
        endpoints.write_text(f'endpoints: [{{name: a, address: 127.0.0.1, port: "{port}"}}]')
        findings = await visited(Patient(endpoints=endpoints))
        (clock,) = [one for one in findings if one.subject == f"clock of 127.0.0.1:{port}"]
        assert (clock.level, "behind ours" in clock.found) == (Level.ERROR, True)


async def test_an_admin_page_that_is_none() -> None:
    async with listening(lambda request: web.Response(text="hello")) as port:
        finding = (await visited(Patient(envoy_admin=f"http://127.0.0.1:{port}")))[0]
        assert (finding.level, "no JSON" in finding.found) == (Level.ERROR, True)


async def test_what_is_near_is_found_by_itself(tmp_path: Path) -> None:
    nobody = Address("127.0.0.1", await closed_port())
    patient, absent = await nearby({"HOME": str(tmp_path)}, envoy=nobody, picker=nobody)
    assert (patient, [one.level for one in absent]) == (Patient(), [Level.SKIPPED] * 3)
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text("{}")
    async with listening(lambda request: web.Response()) as port:
        there = Address("127.0.0.1", port)
        patient, absent = await nearby({"HOME": str(tmp_path)}, envoy=there, picker=there, health_port=7)
    assert (patient.envoy_admin, patient.picker) == (f"http://127.0.0.1:{port}", there)
    assert (patient.health, patient.cluster, absent) == (Address("127.0.0.1", 7), Cluster(), [])


async def test_a_gateway_whose_certificate_nobody_signed(tmp_path: Path) -> None:
    pair = self_signed()
    for name, text in (("tls.crt", pair.certificate), ("tls.key", pair.key)):
        (tmp_path / name).write_bytes(text)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    async with listening(gateway(), tls) as port:
        url = f"https://127.0.0.1:{port}"
        (refused,) = await visited(Patient(gateway=url, model="m"))
        assert (refused.level, "certificate" in refused.found.lower()) == (Level.ERROR, True)
        findings = await visited(Patient(gateway=url, model="m", insecure=True))
        assert findings[0].found == "answered by 10.0.0.1:8000"
