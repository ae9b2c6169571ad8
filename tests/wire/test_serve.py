"""The whole picker: composed in this process, and as the command that operators start."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import grpc
import grpc.aio
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health_pb2, health_pb2_grpc

from epp.app import App, Options
from epp.cli.serve import _idle, serve
from epp.config.sources import PoolConfigs, fixed
from epp.extproc.certificates import self_signed
from epp.options import KubeOptions
from epp.web.server import WebOptions
from tests.wire import gateway as gw

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
PLAIN = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
CHAT = {":method": "POST", ":path": "/v1/chat/completions", "x-request-id": "r1"}


def endpoints_file(folder: Path, *addresses: str) -> Path:
    path = folder / "endpoints.yaml"
    # Nobody listens on the port of the discard service.
    entries = [{"name": f"e{i}", "address": a, "port": 9} for i, a in enumerate(addresses)]
    path.write_text(json.dumps({"endpoints": entries}))
    return path


@asynccontextmanager
async def running(folder: Path, drain_timeout_s: float = 5.0, config: str = PLAIN) -> AsyncIterator[App]:
    options = Options(
        bind_address="127.0.0.1", grpc_port=0, grpc_health_port=0, health_checking=True,
        secure_serving=False, web=WebOptions(host="127.0.0.1", port=0, auth=False),
        drain_timeout_s=drain_timeout_s, endpoints_file=endpoints_file(folder, "127.0.0.1", "127.0.0.2"),
        tracing=False, emit_scores=True,
    )  # fmt: skip
    if "epp:" not in config:
        # Nobody listens where the endpoints are said to be.
        config += "epp: {outliers: {enabled: false}}\n"
    app = App(options, PoolConfigs(fixed(config, "test")), environ={})
    serving = asyncio.ensure_future(app.run())
    async with asyncio.timeout(10):
        while not app.health_port or not app.web.listening:
            await asyncio.sleep(0.005)
            if serving.done():
                serving.result()
    try:
        yield app
    finally:
        app.stop(patient=False)
        app.stop(patient=False)
        await serving


async def test_a_refused_endpoints_file_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path) as app, asyncio.timeout(10):
        (tmp_path / "endpoints.yaml").write_text("endpoints: 5")
        while 'poll_errors_total{source_type="file-discovery"} 1' not in "".join(app.metrics.render()):
            await asyncio.sleep(0.01)
        assert len(app.pool.known.store) == 2


@pytest.mark.parametrize("taken", ["grpc_port", "grpc_health_port", "metrics_port"])
async def test_a_taken_port_ends_the_start_and_leaves_nothing_running(tmp_path: Path, taken: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = {"grpc_port": 0, "grpc_health_port": 0, "metrics_port": 0, taken: other.getsockname()[1]}
        options = Options(
            bind_address="127.0.0.1", grpc_port=ports["grpc_port"],
            grpc_health_port=ports["grpc_health_port"], secure_serving=False,
            web=WebOptions(host="127.0.0.1", port=ports["metrics_port"], auth=False),
            endpoints_file=endpoints_file(tmp_path, "127.0.0.1"), tracing=False,
        )  # fmt: skip
        secret = tmp_path / "secret"
        secret.write_text("hidden")
        trust = f"epp: {{trust: {{objective: secret, secret: {{header: x-s, file: {secret}}}}}}}\n"
        app = App(options, PoolConfigs(fixed(PLAIN + trust, "test")), environ={})
        with pytest.raises(OSError, match=r"cannot listen|address already in use"):
            await app.run()
        for port in (app.transport.port, app.health_port):
            if port:
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", port)
    assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task() and not t.done()] == []


KUBECONFIG = """
current-context: c
contexts: [{name: c, context: {cluster: c, user: u, namespace: prod}}]
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
"""


def in_cluster(folder: Path, **more: Any) -> Options:
    """Of a cluster whose API nobody serves."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    options = Options(
        bind_address="127.0.0.1", grpc_port=0, grpc_health_port=0, secure_serving=False, tracing=False,
        web=WebOptions(host="127.0.0.1", port=0), kube=KubeOptions(kubeconfig=kubeconfig, many=True),
    )  # fmt: skip
    return replace(options, **more)


async def test_many_pools_do_not_start_with_what_none_could_be_served_with(tmp_path: Path) -> None:
    trust = f"epp: {{trust: {{objective: secret, secret: {{header: x-s, file: {tmp_path}/none}}}}}}\n"
    with pytest.raises(ValueError, match="none cannot be read"):
        App(in_cluster(tmp_path), PoolConfigs(fixed(PLAIN + trust, "test")), environ={})


async def test_a_stop_before_the_first_turn_takes_no_lead(tmp_path: Path) -> None:
    kube = KubeOptions(kubeconfig=tmp_path / "kubeconfig", many=True, elect=True)
    app = App(in_cluster(tmp_path, kube=kube), PoolConfigs(fixed(PLAIN, "test")), environ={})
    app.stop(patient=False)
    async with asyncio.timeout(10):
        await app.run()
    assert app.cluster is not None
    assert app.cluster._electing is None


async def test_metrics_of_a_cluster_that_cannot_be_asked_are_shown_to_nobody(tmp_path: Path) -> None:
    app = App(in_cluster(tmp_path), PoolConfigs(fixed(PLAIN, "test")), environ={})
    serving = asyncio.ensure_future(app.run())
    async with asyncio.timeout(10), aiohttp.ClientSession() as client:
        while not app.web.listening:
            await asyncio.sleep(0.005)
        url = f"http://127.0.0.1:{app.web.port}"
        shown = {"Authorization": "Bearer made-up"}
        for path, headers, wanted in (
            ("/metrics", {}, 401),
            ("/metrics", shown, 503),
            ("/debug/pools", shown, 503),
            ("/nothing", shown, 503),
            ("/healthz", {}, 200),
            ("/readyz", {}, 503),
        ):
            async with client.get(url + path, headers=headers) as answer:
                assert (path, answer.status) == (path, wanted)
        app.stop(patient=False)
        await serving


async def status(port: int) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x"))
        return int(answer.status)


async def test_a_request_is_routed_and_can_be_asked_about(tmp_path: Path) -> None:
    async with running(tmp_path) as app, gw.channel(app.transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(CHAT))
        await call.write(gw.request_body(BODY, end=True))
        routed = await call.read()
        chosen = gw.set_headers(routed)["x-gateway-destination-endpoint"]
        assert chosen in ("127.0.0.1:9", "127.0.0.2:9")
        scores = routed.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint-scores"]
        assert set(scores.keys()) == {"127.0.0.1:9", "127.0.0.2:9"}
        base = f"http://127.0.0.1:{app.web.port}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{base}/debug/decisions/r1") as page:
                assert chosen in await page.text()
            async with session.get(f"{base}/metrics") as page:
                assert 'inflight_requests{endpoint_name="e' in await page.text()
            async with session.get(f"{base}/readyz") as page:
                assert page.status == 200
        assert await status(app.health_port) == health_pb2.HealthCheckResponse.SERVING
        assert await status(app.transport.port) == health_pb2.HealthCheckResponse.SERVING
        call.cancel()


async def test_a_request_that_waited_in_vain_can_be_asked_about(tmp_path: Path) -> None:
    # Nobody answers a scrape, so the endpoints count as full.
    config = PLAIN + "featureGates: [flowControl]\nflowControl: {defaultRequestTTL: 50ms}\n"
    async with running(tmp_path, config=config) as app, gw.channel(app.transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers({**CHAT, "x-llm-d-inference-fairness-id": "team-a"}))
        await call.write(gw.request_body(BODY, end=True))
        answer = await call.read()
        assert answer.immediate_response.status.code == 429
        url = f"http://127.0.0.1:{app.web.port}"
        async with aiohttp.ClientSession() as client:
            async with client.get(f"{url}/debug/decisions/r1") as said:
                refused = (await said.json())["refused"]
            async with client.get(f"{url}/debug/flowcontrol?format=text") as said:
                page = await said.text()
            async with client.get(f"{url}/metrics") as said:
                metrics = await said.text()
        assert (refused["reason"], refused["fairness_id"]) == ("queue_timeout", "team-a")
        assert refused["waited_s"] >= 0.05
        assert "2 stale endpoints" in page
        assert "  r1 429 queue_timeout: " in page
        counted = 'requests_total{outcome="EvictedTTL",priority="0",inference_pool="default"} 1'
        assert f"llm_d_epp_flow_control_{counted}" in metrics


async def test_the_limits_of_the_configuration_hold(tmp_path: Path) -> None:
    limits = "epp: {limits: {maxBodyBytes: 1Ki, maxBufferedBytes: 1Ki, maxStreams: 2}}\n"
    async with running(tmp_path, config=PLAIN + limits) as app, gw.channel(app.transport.port) as channel:
        calls = [gw.stream(channel) for _ in range(2)]
        for call in calls:
            await call.write(gw.request_headers(CHAT))
        await calls[0].write(gw.request_body(bytes(800)))
        async with asyncio.timeout(10):
            while app.transport.open_streams < 2:
                await asyncio.sleep(0.005)
        third = gw.stream(channel)
        assert (await third.read()).immediate_response.status.code == 429
        await calls[1].write(gw.request_body(bytes(800)))
        answer = (await calls[1].read()).immediate_response
        assert (answer.status.code, b"together" in answer.body) == (429, True)
        await calls[0].write(gw.request_body(bytes(800)))
        assert (await calls[0].read()).immediate_response.status.code == 413


async def test_several_endpoints_are_a_list_in_header_and_metadata(tmp_path: Path) -> None:
    config = PLAIN + (
        "plugins:\n- {type: random-picker, parameters: {maxNumOfEndpoints: 5}}\n"
        "schedulingProfiles:\n- {name: default, plugins: [{pluginRef: random-picker}]}\n"
    )
    async with running(tmp_path, config=config) as app, gw.channel(app.transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(CHAT))
        await call.write(gw.request_body(BODY, end=True))
        routed = await call.read()
        named = gw.set_headers(routed)["x-gateway-destination-endpoint"]
        assert routed.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"] == named
        first, second = named.split(",")
        assert {first, second} == {"127.0.0.1:9", "127.0.0.2:9"}
        await call.read()
        slots = [
            endpoint.slot for endpoint in map(app.pool.known.store.by_authority, (first, second)) if endpoint
        ]
        assert app.pool.known.ledger.requests(np.asarray(slots)).tolist() == [1, 0]
        await call.write(gw.answer_headers(served=second))
        await call.read()
        assert app.pool.known.ledger.requests(np.asarray(slots)).tolist() == [0, 1]
        call.cancel()


async def test_names_that_clients_make_up_do_not_crowd_out_the_pools_models(tmp_path: Path) -> None:
    async with running(tmp_path) as app, asyncio.timeout(10):
        for index in range(1100):
            app.metrics.request(f"made-up-{index}", "", "", 0)
        assert app.metrics.request("served", "served", "", 0).key[0] == "other"
        app.pool.known.store.set_models(app.pool.known.store.endpoints[0], frozenset({"served"}), 0.0)
        while app.metrics.request("served", "served", "", 0).key[0] != "served":
            await asyncio.sleep(0.01)


async def test_draining_keeps_open_streams_and_is_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path) as app, gw.channel(app.transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(CHAT))
        async with asyncio.timeout(5):
            while not app.transport.open_streams:
                await asyncio.sleep(0.005)
        app.stop(patient=False)
        async with asyncio.timeout(5):
            while not app.missing():
                await asyncio.sleep(0.005)
        assert await status(app.health_port) == health_pb2.HealthCheckResponse.NOT_SERVING
        await call.write(gw.request_body(BODY, end=True))
        assert (await call.read()).WhichOneof("response") == "request_headers"
        await call.read()
        late = gw.stream(channel)
        await late.write(gw.request_headers(CHAT, end=True))
        assert (await late.read()).WhichOneof("response") == "request_headers"
        for stream in (call, late):
            await stream.write(gw.answer_headers(end=True))
            await stream.read()
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK


async def test_streams_that_outlast_the_deadline_are_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path, drain_timeout_s=0.1) as app, gw.channel(app.transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(CHAT))
        async with asyncio.timeout(5):
            while not app.transport.open_streams:
                await asyncio.sleep(0.005)
        app.stop(patient=True)
        assert await call.code() is not grpc.StatusCode.OK
        assert app.pool.known.ledger.open_entries == 0


def epp(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "epp", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grcp-port", "1"], "--grpc-port"),
        (["--endpoint-selector", "app=x"], "needs --endpoint-target-ports"),
        (["--endpoint-selector", "app=x", "--endpoint-target-ports", "80,x"], "'x' is not a port"),
        (["--endpoint-target-ports", "1,2,3,4,5,6,7,8,9"], "at most 8"),
        (["--ha-enable-leader-election"], "--pool-name is required"),
        (["--all-pools", "--pool-selector", "a=b"], "exclude each other"),
        (["--all-pools", "--pool-name", "a"], "give one of them"),
        (["--kubeconfig", "k", "--pool-name", "a", "--all-namespaces"], "goes with --all-pools"),
        (["--endpoints-file", "e", "--trust-pool-header"], "goes with --all-pools"),
        (["--endpoints-file", "e", "--endpoint-target-ports", "80"], "goes with --endpoint-selector"),
        (["--kubeconfig", "k", "--pool-name", "a", "--pool-group", "x"], "--pool-group is one of"),
        (["--all-pools", "--endpoints-file", "e"], "--all-pools is for endpoints in a cluster"),
        (["--kv-cache-usage-percentage-metric=x"], "engineConfigs"),
        (["--tls-cipher-suites=a"], "GRPC_SSL_CIPHER_SUITES"),
        (["--tls-min-version=VersionTLS13"], "VersionTLS12"),
        (["--drain-timeout", "soon"], "is not a duration"),
        (["--tracing=maybe"], "true or false"),
        (["--config-file", "a", "--config-text", "b"], "exclude each other"),
        ([], "--endpoints-file"),
        (["--endpoints-file", "/nowhere/endpoints.yaml"], "/nowhere/endpoints.yaml"),
    ],
)
def test_wrong_flags_stop_the_start_and_say_why(arguments: list[str], words: str) -> None:
    ended = epp(*arguments)
    assert ended.returncode != 0
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_flags_that_others_leave_without_work_are_named() -> None:
    arguments = "--secure-serving=false --cert-path x --enable-cert-reload --refresh-metrics-interval 1ms"
    flags = serve.make_context("serve", arguments.split()).params
    said = [notice.partition(" ")[0] for notice in _idle(flags)]
    assert said == ["--cert-path", "--enable-cert-reload", "--refresh-metrics-interval"]


def test_a_key_behind_a_password_stops_the_start_and_says_why(tmp_path: Path) -> None:
    pair = self_signed()
    key = serialization.load_pem_private_key(pair.key, password=None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "tls.crt").write_bytes(pair.certificate)
    (tmp_path / "tls.key").write_bytes(locked)
    path = endpoints_file(tmp_path, "127.0.0.1")
    ended = epp("--endpoints-file", str(path), "--cert-path", str(tmp_path))
    assert ended.returncode == 1
    assert "tls.key cannot be used" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_configuration_stops_the_start(tmp_path: Path) -> None:
    config = tmp_path / "epp.yaml"
    config.write_text(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: que-scorer\n"
    )
    ended = epp("--config-file", str(config))
    assert ended.returncode == 1
    assert "epp.yaml:4:9: plugins[0].type" in ended.stderr
    assert "queue-scorer" in ended.stderr


def serve_command(path: Path) -> list[str]:
    return [
        sys.executable, "-m", "epp", "serve", "--endpoints-file", str(path), "--bind-address", "127.0.0.1",
        "--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--metrics-endpoint-auth=false",
        "--tracing=false", "--v=2", "--ha-enable-leader-election=false", "--pool-namespace", "local",
        "--secure-serving=false", "--grpc-max-recv-msg-size=", "--grpc-max-send-msg-size=",
    ]  # fmt: skip


async def test_a_second_signal_ends_at_once_and_open_files_are_raised(tmp_path: Path) -> None:
    command = serve_command(endpoints_file(tmp_path, "127.0.0.1"))
    lowered = ["bash", "-c", 'ulimit -Sn 256; exec "$@"', "bash", *command]
    with subprocess.Popen(lowered, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            served = next(line for line in process.stderr if "serving ext_proc on port" in line)
            port = int(served.partition("serving ext_proc on port ")[2].split()[0])
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (HARD, HARD)
            async with gw.channel(port) as channel:
                call = gw.stream(channel)
                await call.write(gw.request_headers(CHAT))
                await call.write(gw.request_body(BODY, end=True))
                assert (await call.read()).WhichOneof("response") == "request_headers"
                process.send_signal(signal.SIGTERM)
                assert any("open streams: 1" in line for line in process.stderr)
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 20) == 0
                call.cancel()
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_an_idle_picker_with_status_0(tmp_path: Path, sent: signal.Signals) -> None:
    command = serve_command(endpoints_file(tmp_path, "127.0.0.1"))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(json.loads(line)["msg"])
            if "serving ext_proc on port" in said[-1]:
                break
        process.send_signal(sent)
        said += [json.loads(line)["msg"] for line in process.stderr]
        assert process.wait(20) == 0
    assert "--pool-namespace has no effect" in said[0]
    assert said[-1] == "stopped"


async def test_a_start_waits_until_the_endpoints_were_asked_how_busy_they_are(tmp_path: Path) -> None:
    """What other pickers have sent them counts from the first decision on."""
    busy = 'vllm:num_requests_running{model_name="m"} 7\nvllm:num_requests_waiting{model_name="m"} 0\n'
    asked, answer = asyncio.Event(), asyncio.Event()

    async def metrics(_: aiohttp.web.Request) -> aiohttp.web.Response:
        asked.set()
        await answer.wait()
        return aiohttp.web.Response(text=busy, content_type="text/plain")

    site = aiohttp.web.Application()
    site.router.add_get("/metrics", metrics)
    runner = aiohttp.web.AppRunner(site, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    path = tmp_path / "one.yaml"
    one = {"name": "e", "address": "127.0.0.1", "port": runner.addresses[0][1]}
    path.write_text(json.dumps({"endpoints": [one]}))
    options = Options(
        bind_address="127.0.0.1", grpc_port=0, grpc_health_port=0, secure_serving=False, tracing=False,
        web=WebOptions(host="127.0.0.1", port=0, auth=False), endpoints_file=path,
    )  # fmt: skip
    app = App(options, PoolConfigs(fixed(PLAIN, "test")), environ={})
    serving = asyncio.ensure_future(app.run())
    try:
        async with asyncio.timeout(10):
            await asked.wait()
            assert "how busy they are" in str(app.missing())
            answer.set()
            while app.missing():
                await asyncio.sleep(0.005)
        assert app.pool.known.store.snapshot.running.tolist() == [7.0]
    finally:
        app.stop(patient=False)
        app.stop(patient=False)
        await serving
        await runner.cleanup()
