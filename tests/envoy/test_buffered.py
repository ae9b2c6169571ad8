"""deploy/envoy/buffered.yaml: Envoy gathers the request's body, epp sends none of it back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from io import BytesIO

import pytest
import pytest_asyncio

from .engines import EVENT, LAST
from .rig import CHOSEN, REWRITE, SERVED, Rig, chat, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT_BYTES = 300_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, transport: str) -> AsyncIterator[Rig]:
    directory = tmp_path_factory.mktemp("buffered")
    async with rig(directory, "buffered.yaml", values={"buffer_limit": LIMIT_BYTES}) as running:
        yield running


@pytest.fixture
def stack(shared: Rig) -> Iterator[Rig]:
    yield from shared.fresh()


async def test_the_choice_is_honoured_and_the_body_untouched(stack: Rig) -> None:
    body = json.dumps(chat("long " * 40_000)).encode()
    async with stack.client.post("/v1/chat/completions", data=BytesIO(body)) as answer:
        assert answer.status == 200
        seen = stack.engine(answer.headers[SERVED]).seen[-1]
    assert seen.headers[CHOSEN] == answer.headers[SERVED]
    assert seen.body == body
    await stack.idle()


async def test_a_long_prompt_goes_where_it_is_cached(stack: Rig) -> None:
    prompt = "once upon a time " * 2000
    for turn in range(5):
        async with stack.client.post("/v1/chat/completions", json=chat(prompt + str(turn))) as answer:
            assert answer.status == 200
    assert sorted(stack.by_port().values()) == [0, 0, 0, 5]


async def test_a_body_over_envoys_limit_is_413_as_openai_says_it(stack: Rig) -> None:
    async with stack.client.post("/v1/chat/completions", json=chat("y" * 2 * LIMIT_BYTES)) as answer:
        assert answer.status == 413
        error = (await answer.json())["error"]
    assert (error["type"], error["code"]) == ("gateway_error", "gateway_error")
    assert "request_payload" in error["message"]
    await stack.idle()


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


async def test_bad_json_is_400_as_openai_says_it(stack: Rig) -> None:
    async with stack.client.post("/v1/chat/completions", data=b'{"model": ') as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "invalid_request_error"
    await stack.idle()


async def test_a_request_without_a_body(stack: Rig) -> None:
    async with stack.client.get("/v1/models/base") as answer:
        assert answer.status == 200
    await stack.idle()


async def test_a_rewritten_model_is_spliced_in(stack: Rig) -> None:
    body = json.dumps(chat()).encode()
    headers = {REWRITE: "another-model"}
    async with stack.client.post("/v1/chat/completions", data=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert (await answer.json())["model"] == "base", "the client sees the name it asked for"
    seen = stack.engine(answer.headers[SERVED]).seen[-1]
    assert seen.body == body.replace(b'"base"', b'"another-model"')
    assert seen.headers.get("content-length", str(len(seen.body))) == str(len(seen.body))
    await stack.idle()
