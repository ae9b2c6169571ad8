"""deploy/envoy/buffered-partial.yaml: epp sees the beginning of a body over the limit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from io import BytesIO

import pytest
import pytest_asyncio

from .rig import CHOSEN, REWRITE, SERVED, Rig, chat, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, transport: str) -> AsyncIterator[Rig]:
    async with rig(tmp_path_factory.mktemp("partial"), "buffered-partial.yaml") as running:
        yield running


@pytest.fixture
def stack(shared: Rig) -> Iterator[Rig]:
    yield from shared.fresh()


async def test_3_mb_are_routed_by_their_beginning(stack: Rig) -> None:
    prompt = "once upon a time " * (3 * 1024 * 1024 // 17)
    for turn in range(3):
        body = json.dumps(chat(prompt + str(turn))).encode()
        async with stack.client.post("/v1/chat/completions", data=BytesIO(body)) as answer:
            assert answer.status == 200, await answer.text()
            seen = stack.engine(answer.headers[SERVED]).seen[-1]
        assert seen.headers[CHOSEN] == answer.headers[SERVED]
        assert seen.body == body
    assert sorted(stack.by_port().values()) == [0, 0, 0, 3]
    await stack.idle()


async def test_a_short_body_is_still_checked(stack: Rig) -> None:
    async with stack.client.post("/v1/chat/completions", data=b'{"model": "base", "mess') as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "invalid_request_error"
    async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
        assert answer.status == 200
    await stack.idle()


@pytest.mark.parametrize("repeats", [1, 200_000])
async def test_a_rewritten_model_is_spliced_in(stack: Rig, repeats: int) -> None:
    body = json.dumps(chat("a long prompt " * repeats)).encode()
    headers = {REWRITE: "another-model"}
    async with stack.client.post("/v1/chat/completions", data=BytesIO(body), headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert (await answer.json())["model"] == "base", "the client sees the name it asked for"
    seen = stack.engine(answer.headers[SERVED]).seen[-1]
    assert seen.body == body.replace(b'"base"', b'"another-model"')
    await stack.idle()
