"""The HTTP API over real sockets, by a client of another make."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from epp.sim.fleet import Fleet
from epp.sim.tokens import pack
from tests.unit.sim.conftest import StartFleet, url

CHAT = "/v1/chat/completions"


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 5,
        "ignore_eos": True,
    } | more


async def events(answer: aiohttp.ClientResponse) -> list[Any]:
    lines = (await answer.text()).split("\n\n")
    assert lines.pop() == ""
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def gauge(http: aiohttp.ClientSession, fleet: Fleet, name: str, **labels: str) -> float:
    async with http.get(url(fleet, "/metrics")) as answer:
        families = text_string_to_metric_families(await answer.text())
    found = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


async def test_a_plain_chat_answer(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    async with http.post(url(fleet, CHAT), json=chat(), headers={"X-Request-Id": "r 1"}) as answer:
        body = await answer.json()
    assert answer.status == 200
    assert answer.headers["x-request-id"] == "r 1"
    assert answer.headers["x-inference-pod"] == "sim-0"
    assert answer.headers["x-inference-port"] == str(fleet.listeners[0].server.port)
    assert body["object"] == "chat.completion"
    assert body["id"] == "chatcmpl-r 1"
    choice = body["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert len(choice["message"]["content"]) == 20
    # <user> hello </s> <assistant>, each filled up to whole tokens
    assert body["usage"] == {
        "prompt_tokens": 8,
        "completion_tokens": 5,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_a_streamed_chat_answer_says_the_same(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    async with http.post(url(fleet, CHAT), json=chat()) as answer:
        plain = await answer.json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with http.post(url(fleet, CHAT), json=chat(**options)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        *chunks, usage = await events(answer)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text == plain["choices"][0]["message"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["length"]
    assert usage["choices"] == []
    assert usage["usage"] == plain["usage"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


async def test_no_usage_unless_asked(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    async with http.post(url(fleet, CHAT), json=chat(stream=True, max_tokens=1)) as answer:
        chunks = await events(answer)
    assert len(chunks) == 2
    assert not any("usage" in chunk for chunk in chunks)


async def test_a_repeated_turn_is_cached(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    messages = [{"role": "user", "content": "x" * 300}]
    body = {"messages": messages, "max_tokens": 40, "ignore_eos": True}
    async with http.post(url(fleet, CHAT), json=body) as answer:
        first = await answer.json()
    messages.append(first["choices"][0]["message"])
    messages.append({"role": "user", "content": "and now?"})
    async with http.post(url(fleet, CHAT), json=body) as answer:
        second = await answer.json()
    had = first["usage"]["total_tokens"] - 1
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == had // 16 * 16
    assert await gauge(http, fleet, "vllm:prefix_cache_hits_total") == had // 16 * 16


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_of_several_prompts(
    start: StartFleet, http: aiohttp.ClientSession, stream: bool
) -> None:
    fleet = await start()
    body = {"model": "m", "prompt": ["one", "two"], "max_tokens": 3, "ignore_eos": True, "stream": stream}
    async with http.post(url(fleet, "/v1/completions"), json=body) as answer:
        texts = {0: "", 1: ""}
        for part in await events(answer) if stream else [await answer.json()]:
            assert part["object"] == "text_completion"
            for choice in part["choices"]:
                texts[choice["index"]] += choice["text"]
    assert [len(text) for text in texts.values()] == [12, 12]


async def test_token_ids_are_a_prompt(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    async with http.post(
        url(fleet, "/v1/completions"), json={"prompt": [1, 2, 3], "max_tokens": 1}
    ) as answer:
        assert (await answer.json())["usage"]["prompt_tokens"] == 3


async def test_an_answer_stops_by_itself(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    body = {"messages": [{"role": "user", "content": "hi"}]}
    async with http.post(url(fleet, CHAT), json=body) as answer:
        natural = await answer.json()
    assert natural["choices"][0]["finish_reason"] == "stop"
    length = natural["usage"]["completion_tokens"]
    async with http.post(url(fleet, CHAT), json=body | {"min_tokens": length + 9}) as answer:
        assert (await answer.json())["usage"]["completion_tokens"] == length + 9


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (CHAT, b"{", 400, "not valid JSON"),
        (CHAT, b"[" * 100_000, 400, ""),
        (CHAT, b'{"messages":[]}', 400, "messages"),
        (CHAT, b'{"messages":3}', 400, "messages"),
        (CHAT, b'{"messages":[{"role":"user","content":"\xff"}]}', 400, ""),
        (CHAT, b'{"model":"other","messages":[{"role":"user","content":"a"}]}', 404, "`other`"),
        (CHAT, b'{"max_tokens":0,"messages":[{"role":"user","content":"a"}]}', 400, "max_tokens"),
        (CHAT, b'{"max_tokens":999999,"messages":[{"role":"user","content":"a"}]}', 400, "maximum context"),
        (CHAT, b'{"n":2,"messages":[{"role":"user","content":"a"}]}', 400, "n must"),
        (CHAT, b'{"min_tokens":6,"max_tokens":5,"messages":[{"role":"user"}]}', 400, "min_tokens"),
        ("/v1/completions", b'{"prompt":[]}', 400, "empty"),
        ("/v1/completions", b'{"prompt":[-1]}', 400, "range"),
        ("/v1/completions", b'{"prompt":[1,"a"]}', 400, "prompt"),
        ("/v1/completions", b'{"prompt":""}', 400, "empty"),
        ("/tokenize", b"{}", 400, "prompt"),
        ("/v1/unload_lora_adapter", b'{"lora_name":"x"}', 404, "x"),
        ("/v1/load_lora_adapter", b'{"lora_name":"x"}', 400, "lora_path"),
        ("/v1/nothing", b"{}", 404, "Not Found"),
        ("/metrics", b"{}", 405, "Method"),
    ],
)
async def test_bad_requests(
    start: StartFleet, http: aiohttp.ClientSession, path: str, body: bytes, status: int, words: str
) -> None:
    fleet = await start()
    async with http.post(url(fleet, path), data=body) as answer:
        error = (await answer.json())["error"]
    assert answer.status == error["code"] == status
    assert words in error["message"]


async def test_a_full_queue_is_429(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start(profile={"max_num_seqs": 1, "step_s": 30.0}, max_waiting=1)
    pending = [asyncio.ensure_future(http.post(url(fleet, CHAT), json=chat())) for _ in range(3)]
    done, left = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().status for task in done] == [429]
    for task in left:
        task.cancel()
    await asyncio.wait(left)


async def test_a_client_that_leaves_frees_its_blocks(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    engine = fleet.listeners[0].server.engine
    async with http.post(url(fleet, CHAT), json=chat(stream=True, max_tokens=100_000)) as answer:
        await answer.content.readany()
        assert engine.running == 1
        answer.close()
    while engine.unfinished:
        await asyncio.sleep(0)
    assert engine.kv.used == 0
    assert await gauge(http, fleet, "vllm:request_success_total", finished_reason="abort") == 1


async def test_metrics_follow_the_requests(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start(profile={"kv_blocks": 20_000}, max_loras=2)
    for _ in range(3):
        async with http.post(url(fleet, CHAT), json=chat()) as answer:
            await answer.read()
    expected = {
        "vllm:num_requests_running": 0,
        "vllm:num_requests_waiting": 0,
        "vllm:kv_cache_usage_perc": 0,
        "vllm:generation_tokens_total": 15,
        "vllm:prompt_tokens_total": 24,
        "vllm:prefix_cache_queries_total": 24,
        "vllm:num_preemptions_total": 0,
        "vllm:time_to_first_token_seconds_count": 3,
        "vllm:inter_token_latency_seconds_count": 12,
        "vllm:e2e_request_latency_seconds_count": 3,
        "vllm:request_queue_time_seconds_count": 3,
        "vllm:request_prompt_tokens_sum": 24,
        "vllm:request_generation_tokens_sum": 15,
        "vllm:request_params_max_tokens_sum": 15,
    }
    for name, value in expected.items():
        assert await gauge(http, fleet, name, engine="0", model_name="m") == value, name
    assert await gauge(http, fleet, "vllm:request_success_total", finished_reason="length") == 3
    cache = {"block_size": "16", "num_gpu_blocks": "20000"}
    assert await gauge(http, fleet, "vllm:cache_config_info", **cache) == 1
    lora = {"max_lora": "2", "running_lora_adapters": "", "waiting_lora_adapters": ""}
    assert await gauge(http, fleet, "vllm:lora_requests_info", **lora) > 1e9


async def test_adapters(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start(loras=("a",))
    async with http.post(
        url(fleet, "/v1/load_lora_adapter"), json={"lora_name": "b", "lora_path": "/b"}
    ) as answer:
        assert answer.status == 200
    async with http.post(
        url(fleet, "/v1/load_lora_adapter"), json={"lora_name": "b", "lora_path": "/b"}
    ) as answer:
        assert answer.status == 400
    async with http.get(url(fleet, "/v1/models")) as answer:
        models = (await answer.json())["data"]
    assert [(model["id"], model["parent"]) for model in models] == [("m", None), ("a", "m"), ("b", "m")]
    body = chat("x" * 200, stream=True, max_tokens=100_000, model="b")
    async with http.post(url(fleet, CHAT), json=body) as answer:
        await answer.content.readany()
        lora = {"running_lora_adapters": "b", "max_lora": "1"}
        assert await gauge(http, fleet, "vllm:lora_requests_info", **lora) > 1e9
        answer.close()
    async with http.post(
        url(fleet, CHAT), json=chat("x" * 200)
    ) as answer:  # shares nothing with the adapter's
        assert (await answer.json())["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    async with http.post(url(fleet, "/v1/unload_lora_adapter"), json={"lora_name": "b"}) as answer:
        assert answer.status == 200
    async with http.post(url(fleet, CHAT), json=chat(model="b")) as answer:
        assert answer.status == 404


async def test_small_paths(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    for path in ("/health", "/ping", "/version"):
        async with http.get(url(fleet, path)) as answer:
            assert answer.status == 200
    async with http.post(url(fleet, "/tokenize"), json={"prompt": "hello you"}) as answer:
        seen = await answer.json()
    assert seen["count"] == 3
    assert b"".join(token.to_bytes(4, "little") for token in seen["tokens"]) == pack(b"hello you")
    body = chat("x" * 200)
    async with http.post(url(fleet, CHAT), json=body) as answer:
        await answer.read()
    async with http.post(url(fleet, "/reset_prefix_cache")) as answer:
        assert answer.status == 200
    async with http.post(url(fleet, CHAT), json=body) as answer:
        assert (await answer.json())["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_parts_tools_and_media_are_tokens(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    picture = {"type": "image_url", "image_url": {"url": "data:..."}}
    content = [{"type": "text", "text": "what is"}, picture]
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {"messages": [{"role": "user", "content": content}], "tools": tools, "max_tokens": 1}
    async with http.post(url(fleet, CHAT), json=body) as answer:
        assert (await answer.json())["usage"]["prompt_tokens"] > 256
    async with http.post(url(fleet, CHAT), json=body) as answer:
        assert (await answer.json())["usage"]["prompt_tokens_details"]["cached_tokens"] >= 256
