"""deploy/envoy/route-by-model.yaml: the body's model chooses the pool, the pool's picker the endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from bench.stack import BIN, DEPLOY, Child, Served, answers, envoy, epp_serve, fetch, free_port
from epp.cli.envoyfile import Value

from .engines import EVENT, LAST, Engine, start_engines
from .rig import SERVED, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LLAMA, ADAPTER, MISTRAL = "llama", "base", "another-model"
"""The engines serve the last two: the one is a pool's by its base model, the other by its own name."""
MODEL, BASE = "x-gateway-model-name", "x-gateway-base-model-name"
LIMIT_BYTES = 8_000_000


@dataclass(slots=True)
class Stack:
    """Two pools of one engine each, their pickers, the router and Envoy in front of all."""

    llama: Engine
    mistral: Engine
    pickers: list[Served]
    router: Served
    client: aiohttp.ClientSession

    async def idle(self) -> None:
        for picker in self.pickers:
            await until(
                lambda picker=picker: picker.metric("llm_d_epp_extproc_streams_inflight") == 0,  # type: ignore[misc]
                "no ext_proc stream open",
            )


def route_by_model(directory: Path, transport: str) -> Served:
    """`epp route-by-model` on free ports, ready."""
    names = directory / "base-models.yaml"
    names.write_text(f"{LLAMA}: [{ADAPTER}]\n")
    grpc, health, metrics = free_port(), free_port(), free_port()
    argv = [str(BIN / "epp"), "route-by-model", "--base-models-file", str(names), "--transport", transport]
    argv += ["--bind-address", "127.0.0.1", "--secure-serving=false", "--tracing=false"]
    argv += ["--grpc-port", str(grpc), "--grpc-health-port", str(health), "--metrics-port", str(metrics)]
    child = Child("route-by-model", argv, directory / f"router-{grpc}.log")
    try:
        child.wait_for(lambda: answers(f"http://127.0.0.1:{metrics}/readyz"))
    except BaseException:
        child.stop()
        raise
    return Served(child, grpc, health, metrics)


@contextlib.asynccontextmanager
async def stack(directory: Path, transport: str, body_mode: str) -> AsyncIterator[Stack]:
    engines = await start_engines(2)
    port, admin = free_port(), free_port()
    async with contextlib.AsyncExitStack() as live:
        pickers = []
        for engine in engines:
            live.push_async_callback(engine.stop)
            flags = ("--transport", transport, "--enable-grpc-stream-metrics")
            served = await asyncio.to_thread(epp_serve, [engine.address], directory, flags=flags)
            live.callback(served.stop_now)
            pickers.append(served)
        router = await asyncio.to_thread(route_by_model, directory, transport)
        live.callback(router.stop_now)
        values: dict[str, Value] = {
            "admin": admin, "listener": port, "listener_address": "127.0.0.1", "buffer_limit": LIMIT_BYTES,
            "model": MISTRAL, "base_model": LLAMA, "model_body": body_mode,
            "router": router.grpc, "router_health": router.health,
            "epp": pickers[0].grpc, "epp_health": pickers[0].health,
            "other_epp": pickers[1].grpc, "other_epp_health": pickers[1].health,
        }  # fmt: skip
        gateway = await asyncio.to_thread(envoy, DEPLOY / "route-by-model.yaml", values, directory)
        live.callback(gateway.stop)
        client = aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(30))
        live.push_async_callback(client.close)
        health = f"http://127.0.0.1:{admin}/stats/prometheus?filter=membership_healthy"
        for cluster in ("route_by_model", "epp_llama", "epp_mistral"):
            line = f'envoy_cluster_membership_healthy{{envoy_cluster_name="{cluster}"}} 1'
            await until(lambda line=line: line in fetch(health), f"{cluster} healthy for Envoy")  # type: ignore[misc]
        yield Stack(engines[0], engines[1], pickers, router, client)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["BUFFERED", "FULL_DUPLEX_STREAMED"])
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, transport: str
) -> AsyncIterator[Stack]:
    async with stack(tmp_path_factory.mktemp("route-by-model"), transport, request.param) as running:
        yield running


@pytest.fixture
def running(shared: Stack) -> Iterator[Stack]:
    for engine in (shared.llama, shared.mistral):
        engine.reset()
    yield shared
    for engine in (shared.llama, shared.mistral):
        engine.go.set()


def chat(model: str, prompt: str = "hello", **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": prompt}], **more, "model": model}


async def test_the_model_chooses_the_pool(running: Stack) -> None:
    for model, engine, base in [
        (ADAPTER, running.llama, LLAMA), (MISTRAL, running.mistral, None)
    ]:  # fmt: skip
        async with running.client.post("/v1/chat/completions", json=chat(model)) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.headers[SERVED] == engine.address
        seen = engine.seen[-1]
        assert (seen.headers[MODEL], seen.headers.get(BASE)) == (model, base)
    await running.idle()


@pytest.mark.parametrize("size", [10, 40_000, 70_000, 300_000, 1_200_000, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_any_size_arrives_as_it_was_sent(running: Stack, size: int, chunked: bool) -> None:
    for model, engine in [(ADAPTER, running.llama), (MISTRAL, running.mistral)]:
        body = json.dumps(chat(model, "x" * size)).encode()
        path, sent = "/v1/chat/completions", BytesIO(body)
        async with running.client.post(path, data=sent, chunked=chunked or None) as answer:
            assert answer.status == 200, await answer.text()
        assert engine.seen[-1].body == body
    await running.idle()


async def test_many_at_once(running: Stack) -> None:
    async def one(turn: int) -> None:
        model, engine = [(ADAPTER, running.llama), (MISTRAL, running.mistral)][turn % 2]
        body = json.dumps(chat(model, f"{turn} " * (turn * 400))).encode()
        async with running.client.post("/v1/chat/completions", data=body) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.headers[SERVED] == engine.address

    await asyncio.gather(*(one(turn) for turn in range(60)))
    assert (len(running.llama.seen), len(running.mistral.seen)) == (30, 30)
    await running.idle()


async def test_a_streamed_answer_arrives_unbuffered(running: Stack) -> None:
    request = chat(MISTRAL, stream=True)
    async with running.client.post(
        "/v1/chat/completions", json=request, headers={"x-act": "stream"}
    ) as answer:
        assert await answer.content.readuntil(b"\n\n") == EVENT
        running.mistral.go.set()
        assert await answer.content.read() == LAST
    await running.idle()


async def test_nobody_chooses_a_pool_by_header(running: Stack) -> None:
    headers = {MODEL: MISTRAL, BASE: LLAMA}
    async with running.client.post("/v1/chat/completions", json=chat(ADAPTER), headers=headers) as answer:
        assert answer.headers[SERVED] == running.llama.address
    for unknown in (chat("unknown"), {"prompt": "no model"}):
        async with running.client.post("/v1/chat/completions", json=unknown, headers=headers) as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "model_not_found"
    async with running.client.get("/v1/models", headers=headers) as answer:
        assert answer.status == 404
    await running.idle()


async def test_bad_json_is_400_as_openai_says_it(running: Stack) -> None:
    headers = {"content-type": "application/json"}
    async with running.client.post("/v1/completions", data=b'{"model": ', headers=headers) as answer:
        assert answer.status == 400
        error = (await answer.json())["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert not running.llama.seen
    assert not running.mistral.seen


async def test_a_form_with_a_model(running: Stack) -> None:
    form = aiohttp.FormData()
    form.add_field("file", b"RIFF" * 50_000, filename="a.wav", content_type="audio/wav")
    form.add_field("model", MISTRAL)
    async with running.client.post("/v1/audio/transcriptions", data=form) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers[SERVED] == running.mistral.address
    await running.idle()


async def test_a_client_that_leaves_ends_everything(running: Stack) -> None:
    request = chat(ADAPTER, stream=True)
    answer = await running.client.post("/v1/chat/completions", json=request, headers={"x-act": "stream"})
    await answer.content.readuntil(b"\n\n")
    answer.close()
    await running.idle()
