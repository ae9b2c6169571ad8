"""deploy/envoy/streamed.yaml: the endpoint is told at the headers, bodies pass by."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from io import BytesIO

import pytest
import pytest_asyncio

from .engines import EVENT, LAST
from .rig import CHOSEN, SERVED, Rig, chat, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, transport: str) -> AsyncIterator[Rig]:
    async with rig(tmp_path_factory.mktemp("streamed"), "streamed.yaml") as running:
        yield running


@pytest.fixture
def stack(shared: Rig) -> Iterator[Rig]:
    yield from shared.fresh()


@pytest.mark.parametrize("repeats", [1, 200_000])
async def test_bodies_of_any_length_are_routed(stack: Rig, repeats: int) -> None:
    body = json.dumps(chat("a long prompt " * repeats)).encode()
    async with stack.client.post("/v1/chat/completions", data=BytesIO(body)) as answer:
        assert answer.status == 200, await answer.text()
        seen = stack.engine(answer.headers[SERVED]).seen[-1]
    assert seen.headers[CHOSEN] == answer.headers[SERVED]
    assert seen.body == body
    await stack.idle()


async def test_load_is_spread(stack: Rig) -> None:
    for _ in range(24):
        async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
            assert answer.status == 200
    assert sum(count > 0 for count in stack.by_port().values()) > 1


async def test_a_streamed_answer_arrives_unbuffered(stack: Rig) -> None:
    request = chat(stream=True)
    async with stack.client.post("/v1/chat/completions", json=request, headers={"x-act": "stream"}) as answer:
        assert await answer.content.readuntil(b"\n\n") == EVENT
        stack.engine(answer.headers[SERVED]).go.set()
        assert await answer.content.read() == LAST
    await stack.idle()


async def test_a_client_that_leaves_ends_everything(stack: Rig) -> None:
    request = chat(stream=True)
    answer = await stack.client.post("/v1/chat/completions", json=request, headers={"x-act": "stream"})
    await answer.content.readuntil(b"\n\n")
    answer.close()
    await stack.idle()


async def test_a_request_without_a_body(stack: Rig) -> None:
    async with stack.client.get("/v1/models/base") as answer:
        assert answer.status == 200
    await stack.idle()
