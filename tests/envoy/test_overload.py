"""A full pool, seen by clients: who waits, who is told to come back, and when."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from epp.load.run import raise_open_files

from .engines import EVENT, Engine, start_engines
from .rig import Rig, chat, rig, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

DROPPED = "x-llm-d-request-dropped-reason"
OBJECTIVE = "x-llm-d-inference-objective"
TTL = "x-llm-d-inference-ttl"
CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins:
- {type: concurrency-detector, parameters: {maxConcurrency: 1}}
flowControl:
  saturationDetector: {pluginRef: concurrency-detector}
  defaultRequestTTL: 60s
  enableEviction: true
  defaultPriorityBand: {maxRequests: 1, maxBytes: 100k}
  priorityBands:
  - {priority: 10, maxRequests: 3}
epp: {objectives: %s}
"""
OBJECTIVES = """\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: screen}
spec: {priority: 10, poolRef: {name: pool}}
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -1, poolRef: {name: pool}}
"""
BELIEVED = {"control_header": "x-nothing"}
"""Lets clients say who they are, as a gateway that knows would."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, transport: str) -> AsyncIterator[Rig]:
    """An engine with room for one."""
    directory = tmp_path_factory.mktemp("overload")
    async with rig(
        directory, "standalone.yaml", engines=1, flags=flags(directory), values=BELIEVED
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stack(shared: Rig) -> AsyncIterator[Rig]:
    for fresh in shared.fresh():
        yield fresh
    await shared.idle()


def flags(directory: Path, config: str = CONFIG) -> list[str]:
    objectives, written = directory / "objectives.yaml", directory / "epp.yaml"
    objectives.write_text(OBJECTIVES)
    written.write_text(config % objectives)
    return ["--config-file", str(written)]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def assert_refused(self, status: int, code: str, dropped: str) -> None:
        assert self.status == status, self.body
        assert self.headers["content-type"] == "application/json"
        assert self.headers[DROPPED] == dropped
        assert 1 <= int(self.headers["retry-after"]) <= 60
        error = json.loads(self.body)["error"]
        kind = "overloaded_error" if status == 429 else "service_unavailable_error"
        assert (error["type"], error["code"], error["param"]) == (kind, code, None)
        assert error["message"]


def asking(
    stack: Rig,
    name: str,
    act: str = "hold",
    *,
    stream: bool = False,
    headers: Mapping[str, str] | None = None,
) -> asyncio.Task[Reply]:
    """A request of that prompt; the engine holds it until the test lets it go."""

    async def ask() -> Reply:
        sent = {"x-act": act, **(headers or {})}
        body = chat(name, stream=stream)
        async with stack.client.post("/v1/chat/completions", json=body, headers=sent) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    return asyncio.create_task(ask())


def names(engine: Engine) -> list[str]:
    """Prompts in the order in which the engine got them."""
    return [json.loads(seen.body)["messages"][0]["content"] for seen in engine.seen]


async def queued(stack: Rig, count: int) -> None:
    await until(
        lambda: stack.epp.metric("llm_d_epp_flow_control_queue_size") == count, f"{count} requests waiting"
    )


async def full(stack: Rig) -> tuple[asyncio.Task[Reply], asyncio.Task[Reply]]:
    """One request runs and one waits, which is all that is let in of the default priority."""
    running = asking(stack, "running")
    await stack.serving()
    waiting = asking(stack, "waiting")
    await queued(stack, 1)
    return running, waiting


async def test_the_next_waits_and_the_one_beyond_is_told_when_to_come_back(stack: Rig) -> None:
    running, waiting = await full(stack)
    for stream in (False, True):
        beyond = await asking(stack, "beyond", stream=stream)
        beyond.assert_refused(429, "queue_full", "rejected-saturated")
    assert names(stack.engines[0]) == ["running"]
    stack.engines[0].go.set()
    assert (await running).status == (await waiting).status == 200
    assert names(stack.engines[0]) == ["running", "waiting"]


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_client_comes_back_when_it_is_told(
    stack: Rig, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    running, waiting = await full(stack)
    told: list[tuple[int, str]] = []

    async def note(response: Any) -> None:
        told.append((response.status_code, response.headers.get("retry-after", "")))
        stack.engines[0].go.set()  # after the first refusal there is room soon

    http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [note]}, trust_env=False)
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{stack.port}/v1", api_key="none", max_retries=3, http_client=http
    ) as client:
        with caplog.at_level(logging.INFO, "openai"):
            answer: Any = await client.chat.completions.create(
                model="base",
                messages=[{"role": "user", "content": "patient"}],
                stream=stream,
                extra_headers={"x-act": "stream" if stream else "hold"},
            )
        if stream:
            assert [chunk.usage.total_tokens async for chunk in answer if chunk.usage] == [7]
        else:
            assert answer.usage.total_tokens == 7
    statuses, seconds = [status for status, _ in told], [text for status, text in told if status == 429]
    assert statuses[0] == 429
    assert statuses[-1] == 200
    said = [record.getMessage() for record in caplog.records if "Retrying" in record.getMessage()]
    assert [f"in {float(text):f} seconds" in line for text, line in zip(seconds, said, strict=True)]
    assert (await running).status == (await waiting).status == 200
    assert names(stack.engines[0])[-1] == "patient"


async def test_openais_client_reads_the_refusal(stack: Rig) -> None:
    running, waiting = await full(stack)
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{stack.port}/v1", api_key="none", max_retries=0, http_client=http
    ) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(
                model="base", messages=[{"role": "user", "content": "beyond"}], stream=True
            )
    assert caught.value.code == "queue_full"
    assert caught.value.type == "overloaded_error"
    assert "try again later" in caught.value.message
    stack.engines[0].go.set()
    assert (await running).status == (await waiting).status == 200


async def test_the_important_go_first(stack: Rig) -> None:
    running, waiting = await full(stack)
    first = asking(stack, "first", headers={OBJECTIVE: "screen"})
    await queued(stack, 2)
    second = asking(stack, "second", headers={OBJECTIVE: "screen"})
    await queued(stack, 3)
    stack.engines[0].go.set()
    for reply in (running, waiting, first, second):
        assert (await reply).status == 200
    assert names(stack.engines[0]) == ["running", "first", "second", "waiting"]


async def test_who_leaves_the_queue_frees_the_place_at_once(stack: Rig) -> None:
    running, waiting = await full(stack)
    waiting.cancel()
    await queued(stack, 0)
    another = asking(stack, "another")
    await queued(stack, 1)
    stack.engines[0].go.set()
    assert (await running).status == (await another).status == 200
    assert names(stack.engines[0]) == ["running", "another"]


async def test_what_cannot_fit_is_refused_before_its_body_is_sent(stack: Rig) -> None:
    (await headers_alone(stack, length=1_000_000)).assert_refused(429, "queue_full", "rejected-saturated")
    running, waiting = await full(stack)
    (await headers_alone(stack, length=100)).assert_refused(429, "queue_full", "rejected-saturated")
    stack.engines[0].go.set()
    assert (await running).status == (await waiting).status == 200


async def headers_alone(stack: Rig, *, length: int) -> Reply:
    """The answer to a request whose body is promised and not sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: models\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % length
        )
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        return Reply(
            int(status.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))
        )
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_running_request_gives_way_before_its_answer(stack: Rig) -> None:
    batch = asking(stack, "batch", headers={OBJECTIVE: "batch"})
    await stack.serving()
    screen = asking(stack, "screen", headers={OBJECTIVE: "screen"})
    (await batch).assert_refused(429, "evicted", "evicted")
    stack.engines[0].go.set()
    assert (await screen).status == 200


async def test_a_running_answer_that_gives_way_is_reset(stack: Rig) -> None:
    headers = {"x-act": "stream", OBJECTIVE: "batch"}
    batch = await stack.client.post("/v1/chat/completions", json=chat("batch", stream=True), headers=headers)
    assert await batch.content.readuntil(b"\n\n") == EVENT
    screen = asking(stack, "screen", headers={OBJECTIVE: "screen"})
    with pytest.raises(aiohttp.ClientPayloadError):
        await batch.read()
    stack.engines[0].go.set()
    assert (await screen).status == 200


async def test_equals_do_not_give_way(stack: Rig) -> None:
    batch = asking(stack, "first", headers={OBJECTIVE: "batch"})
    await stack.serving()
    another = asking(stack, "second", headers={OBJECTIVE: "batch"})
    await queued(stack, 1)
    stack.engines[0].go.set()
    assert (await batch).status == (await another).status == 200


async def test_who_waits_too_long_is_told_so(stack: Rig) -> None:
    running = asking(stack, "running")
    await stack.serving()
    late = await asking(stack, "late", headers={TTL: "50ms"})
    late.assert_refused(429, "queue_timeout", "rejected-ttl-expired")
    stack.engines[0].go.set()
    assert (await running).status == 200
    assert names(stack.engines[0]) == ["running"]


async def test_a_request_waits_for_the_first_endpoint(tmp_path: Path) -> None:
    async with rig(tmp_path, "standalone.yaml", engines=0, flags=flags(tmp_path)) as stack:
        waiting = asking(stack, "waiting")
        await queued(stack, 1)
        beyond = await asking(stack, "beyond")
        beyond.assert_refused(503, "no_endpoints", "rejected-no-endpoints")
        (engine,) = await start_engines(1)
        try:
            engine.go.set()
            listed = f'endpoints: [{{name: engine-0, address: 127.0.0.1, port: "{engine.port}"}}]\n'
            (tmp_path / f"endpoints-{stack.epp.grpc}.yaml").write_text(listed)
            assert (await waiting).status == 200
            assert names(engine) == ["waiting"]
            await stack.idle()
        finally:
            await engine.stop()


async def test_everybody_who_waits_is_answered_before_the_picker_goes(tmp_path: Path) -> None:
    more = [*flags(tmp_path), "--drain-timeout", "1s"]
    async with rig(tmp_path, "standalone.yaml", engines=1, flags=more, values=BELIEVED) as stack:
        running, waiting = await full(stack)
        high = []
        for number in range(3):
            high.append(asking(stack, f"high {number}", headers={OBJECTIVE: "screen"}))
            await queued(stack, 2 + number)
        assert await asyncio.to_thread(stack.epp.child.stop, 30.0) == 0
        for reply in (waiting, *high):
            (await reply).assert_refused(503, "shutting_down", "rejected-shutting-down")
        running.cancel()
        assert names(stack.engines[0]) == ["running"]


async def test_who_waits_is_served_while_the_picker_drains(tmp_path: Path) -> None:
    async with rig(tmp_path, "standalone.yaml", engines=1, flags=flags(tmp_path), values=BELIEVED) as stack:
        running, waiting = await full(stack)
        leaving = asyncio.create_task(asyncio.to_thread(stack.epp.child.stop, 40.0))
        await until(lambda: "draining" in stack.epp.child.output(), "the picker draining")
        stack.engines[0].go.set()
        assert (await running).status == (await waiting).status == 200
        assert await leaving == 0


async def test_thousands_that_are_refused_at_once_all_hear_why(tmp_path: Path) -> None:
    """More than Envoy would let wait on its connection to the picker, if it were not told to."""
    raise_open_files()
    config = CONFIG.replace("{maxRequests: 1, maxBytes: 100k}", "{maxRequests: 10k, maxBytes: 1G}")
    more = [*flags(tmp_path, config), "--drain-timeout", "1s"]
    async with rig(tmp_path, "standalone.yaml", engines=1, flags=more, values=BELIEVED) as stack:
        running = asking(stack, "running")
        await stack.serving()
        waiting = [asking(stack, "waiting") for _ in range(2500)]
        await queued(stack, len(waiting))
        assert await asyncio.to_thread(stack.epp.child.stop, 60.0) == 0
        for reply in waiting:
            (await reply).assert_refused(503, "shutting_down", "rejected-shutting-down")
        running.cancel()
