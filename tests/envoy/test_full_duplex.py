"""deploy/envoy/standalone.yaml: bodies in FULL_DUPLEX_STREAMED mode both ways."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from io import BytesIO

import aiohttp
import pytest
import pytest_asyncio

from .engines import EVENT, LAST
from .rig import CHOSEN, REWRITE, SERVED, Rig, chat, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, transport: str) -> AsyncIterator[Rig]:
    async with rig(tmp_path_factory.mktemp("duplex"), "standalone.yaml") as running:
        yield running


@pytest.fixture
def stack(shared: Rig) -> Iterator[Rig]:
    yield from shared.fresh()


async def test_the_choice_is_honoured_and_told_back(stack: Rig) -> None:
    for number in range(12):
        body = json.dumps(chat(f"{number} a prompt of its own")).encode()
        async with stack.client.post("/v1/chat/completions", data=BytesIO(body)) as answer:
            assert answer.status == 200
            served = answer.headers[SERVED]
            await answer.read()
        seen = stack.engine(served).seen[-1]
        assert seen.headers[CHOSEN] == served
        assert seen.body == body
    assert sum(stack.by_port().values()) == 12
    assert sum(count > 0 for count in stack.by_port().values()) > 1


async def test_a_long_prompt_goes_where_it_is_cached(stack: Rig) -> None:
    prompt = "once upon a time " * 2000
    for turn in range(5):
        async with stack.client.post("/v1/chat/completions", json=chat(prompt + str(turn))) as answer:
            assert answer.status == 200
    assert sorted(stack.by_port().values()) == [0, 0, 0, 5]


async def test_a_streamed_answer_arrives_unbuffered(stack: Rig) -> None:
    request = chat(stream=True)
    async with stack.client.post("/v1/chat/completions", json=request, headers={"x-act": "stream"}) as answer:
        # The engine sends no more before the first event is here.
        assert await answer.content.readuntil(b"\n\n") == EVENT
        stack.engine(answer.headers[SERVED]).go.set()
        assert await answer.content.read() == LAST
    await stack.idle()


async def test_a_client_that_leaves_ends_everything(stack: Rig) -> None:
    request = chat(stream=True)
    answer = await stack.client.post("/v1/chat/completions", json=request, headers={"x-act": "stream"})
    await answer.content.readuntil(b"\n\n")
    assert stack.epp.metric("llm_d_epp_inflight_requests") == 1
    answer.close()
    await stack.idle()


async def test_a_client_that_leaves_before_the_answer(stack: Rig) -> None:
    asked = asyncio.ensure_future(
        stack.client.post("/v1/chat/completions", json=chat(), headers={"x-act": "hold"})
    )
    await stack.serving()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await stack.idle()


async def test_an_engine_that_dies_in_the_middle(stack: Rig) -> None:
    request = chat(stream=True)
    async with stack.client.post("/v1/chat/completions", json=request, headers={"x-act": "die"}) as answer:
        assert answer.status == 200
        assert await answer.content.readuntil(b"\n\n") == EVENT
        stack.engine(answer.headers[SERVED]).go.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    await stack.idle()
    async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
        assert answer.status == 200


async def test_a_body_of_64_mb_passes_byte_for_byte(stack: Rig) -> None:
    frame = json.dumps(chat("")).encode()
    body = frame.replace(b'"content": ""', b'"content": "' + b"y" * ((64 << 20) - len(frame)) + b'"')
    assert len(body) == 64 << 20
    async with stack.client.post("/v1/chat/completions", data=BytesIO(body)) as answer:
        assert answer.status == 200, await answer.text()
        seen = stack.engine(answer.headers[SERVED]).seen[-1]
    assert len(seen.body) == len(body)
    assert hashlib.sha256(seen.body).digest() == hashlib.sha256(body).digest()
    await stack.idle()


async def test_a_body_over_the_limit_is_413_as_openai_says_it(stack: Rig) -> None:
    frame = json.dumps(chat("")).encode()
    body = frame.replace(b'"content": ""', b'"content": "' + b"y" * (65 << 20) + b'"')
    async with stack.client.post("/v1/chat/completions", data=BytesIO(body)) as answer:
        assert answer.status == 413
        assert (await answer.json())["error"]["code"] == "request_too_large"
    await stack.idle()


async def test_a_thousand_streams_at_once(stack: Rig) -> None:
    begun = 0

    async def one(number: int) -> bytes:
        request = chat(f"{number}", stream=True)
        headers = {"x-act": "stream"}
        async with stack.client.post("/v1/chat/completions", json=request, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            first = await answer.content.readuntil(b"\n\n")
            nonlocal begun
            begun += 1
            if begun == 1000:  # all are open at once before any may end
                for engine in stack.engines:
                    engine.go.set()
            return first + await answer.content.read()

    answers = await asyncio.gather(*(one(number) for number in range(1000)))
    assert set(answers) == {EVENT + LAST}
    assert sum(stack.by_port().values()) == 1000
    assert min(stack.by_port().values()) > 150, "load is spread"
    await stack.idle()


async def test_a_request_without_a_body(stack: Rig) -> None:
    async with stack.client.get("/v1/models/base") as answer:
        assert answer.status == 200
        seen = stack.engine(answer.headers[SERVED]).seen[-1]
    assert (seen.method, seen.path, seen.body) == ("GET", "/v1/models/base", b"")
    assert "transfer-encoding" not in seen.headers
    await stack.idle()


async def test_trailers_pass_both_ways(stack: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    body = json.dumps(chat()).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
        b"trailer: x-sum\r\nconnection: close\r\n\r\n"
        + f"{len(body):x}\r\n".encode()
        + body
        + b"\r\n0\r\nx-sum: 1\r\n\r\n"
    )
    raw = await reader.read()
    writer.close()
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert b'"chat.completion"' in raw
    await stack.idle()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "base", "messages": [', None),
        (b'{"model": 7, "messages": []}', "model"),
        (b'{"messages": [{"role": "user", "content": "hi"}]}', "model"),
        (b'{"model": "base"}', "messages"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(stack: Rig, body: bytes, param: str | None) -> None:
    async with stack.client.post("/v1/chat/completions", data=BytesIO(body)) as answer:
        assert answer.status == 400
        assert answer.headers["content-type"] == "application/json"
        error = (await answer.json())["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert sum(stack.by_port().values()) == 0
    await stack.idle()


async def test_a_client_cannot_choose_its_target(stack: Rig) -> None:
    target = stack.engines[0].address
    for number in range(12):
        headers = {CHOSEN: target, SERVED: target}
        async with stack.client.post("/v1/completions", json={"model": "base", "prompt": f"{number}"},
                                     headers=headers) as answer:  # fmt: skip
            assert answer.status == 200
    assert stack.by_port()[target] < 12


async def test_kept_alive_connections_mix_bodies_and_none(stack: Rig) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as one:
        for number in range(6):
            url = f"http://127.0.0.1:{stack.port}/v1/chat/completions"
            async with one.post(url, json=chat(f"{number}" * 70_000)) as answer:
                assert answer.status == 200
            async with one.get(url) as answer:
                assert answer.status == 200
    await stack.idle()


async def test_a_rewritten_model_is_spliced_in_and_back(stack: Rig) -> None:
    body = json.dumps(chat("long enough for pieces " * 10_000)).encode()
    headers = {REWRITE: "another-model"}
    async with stack.client.post("/v1/chat/completions", data=BytesIO(body), headers=headers) as answer:
        assert answer.status == 200
        assert (await answer.json())["model"] == "base", "the client sees the name it asked for"
    seen = stack.engine(answer.headers[SERVED]).seen[-1]
    assert seen.body == body.replace(b'"base"', b'"another-model"')
    await stack.idle()
