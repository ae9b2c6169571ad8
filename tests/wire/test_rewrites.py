"""Rewrites of models' names over real gRPC and both transports: which bytes go on, and which come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from epp.domain.rewrite import Rewrite, RewriteRule, RewriteTarget
from tests.house import House
from tests.wire import gateway as gw
from tests.wire.transports import TRANSPORTS, serving

CHAT = {":method": "POST", ":path": "/v1/chat/completions", "content-type": "application/json"}
FORM = {
    ":method": "POST", ":path": "/v1/audio/transcriptions", "content-type": "multipart/form-data; boundary=B",
}  # fmt: skip
DUPLEX, BUFFERED = (4, 4), (2, 0)
PIECE_BYTES = 60_000


def house() -> House:
    house = House()
    rules = (
        RewriteRule(("alias",), (RewriteTarget("org/target"),)),
        RewriteRule((), (RewriteTarget("fallback"),)),
    )
    house.rewrites.replace([Rewrite("ours", rules)])
    return house


def chat(model: str | None, text_bytes: int, *, behind: bool = False) -> bytes:
    messages = {"messages": [{"role": "user", "content": 'a \\ quoted " word ' * (text_bytes // 18 + 1)}]}
    named = {} if model is None else {"model": model}
    return json.dumps(messages | named if behind else named | messages).encode()


def form(model: str, file_bytes: int) -> bytes:
    part = 'Content-Disposition: form-data; name="model"\r\n\r\n' + model
    file = 'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + "x" * file_bytes
    return f"--B\r\n{file}\r\n--B\r\n{part}\r\n--B--\r\n".encode()


async def sent(call: Any, headers: dict[str, str], body: bytes, modes: tuple[int, int]) -> tuple[bytes, str]:
    """The body as it goes to the engine, and the target that the headers name."""
    await call.write(gw.request_headers(headers, modes=modes))
    first: pb.ProcessingResponse | None = None
    if modes == BUFFERED:
        first = await call.read()
        pieces = [body]
    else:
        pieces = [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]
    for number, piece in enumerate(pieces, 1):
        await call.write(gw.request_body(piece, end=number == len(pieces)))
    if modes == BUFFERED:
        assert first is not None
        answer = await call.read()
        common = answer.request_body.response
        new = {o.header.key: o.header.raw_value.decode() for o in common.header_mutation.set_headers}
        return common.body_mutation.body or body, new.get("x-llm-d-model-name-rewrite", "")
    answer = await call.read()
    target = gw.set_headers(answer).get("x-llm-d-model-name-rewrite", "")
    out = b""
    while True:
        piece = (await call.read()).request_body.response.body_mutation.streamed_response
        out += piece.body
        if piece.end_of_stream:
            return out, target


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("modes", [DUPLEX, BUFFERED])
@pytest.mark.parametrize("text_bytes", [10, 20_000, 400_000])
async def test_only_the_name_changes(kind: str, modes: tuple[int, int], text_bytes: int) -> None:
    async with serving(kind, house().director) as (transport, _), gw.channel(transport.port) as channel:
        for behind in (False, True):
            body = chat("alias", text_bytes, behind=behind)
            call = gw.stream(channel)
            out, target = await sent(call, CHAT, body, modes)
            assert out == body.replace(b'"alias"', b'"org/target"')
            assert target == "org/target"
            call.cancel()


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("modes", [DUPLEX, BUFFERED])
@pytest.mark.parametrize("text_bytes", [10, 20_000, 400_000])
async def test_who_names_no_model_gets_one(kind: str, modes: tuple[int, int], text_bytes: int) -> None:
    async with serving(kind, house().director) as (transport, _), gw.channel(transport.port) as channel:
        body = chat(None, text_bytes)
        call = gw.stream(channel)
        out, target = await sent(call, CHAT, body, modes)
        assert (out, target) == (b'{"model":"fallback",' + body[1:], "fallback")
        call.cancel()


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("modes", [DUPLEX, BUFFERED])
@pytest.mark.parametrize("file_bytes", [10, 200_000])
async def test_a_form_keeps_its_file(kind: str, modes: tuple[int, int], file_bytes: int) -> None:
    async with serving(kind, house().director) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        out, target = await sent(call, FORM, form("alias", file_bytes), modes)
        assert (out, target) == (form("org/target", file_bytes), "org/target")
        call.cancel()


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_the_answer_has_the_clients_name(kind: str) -> None:
    async with serving(kind, house().director) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await sent(call, CHAT, chat("alias", 10), DUPLEX)
        await call.write(gw.answer_headers(headers={"content-type": "text/event-stream"}))
        assert (await call.read()).WhichOneof("response") == "response_headers"
        event = b'data: {"id":"x","model":"org/target","choices":[]}\n\n'
        cut = event.index(b"target")
        out = b""
        for number, piece in enumerate((event[:cut], event[cut:], event, b"data: [DONE]\n\n"), 1):
            await call.write(gw.answer_body(piece, end=number == 4))
        while not out.endswith(b"[DONE]\n\n"):
            out += (await call.read()).response_body.response.body_mutation.streamed_response.body
        assert out == 2 * event.replace(b"org/target", b"alias") + b"data: [DONE]\n\n"
        await call.done_writing()
