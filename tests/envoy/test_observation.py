"""Answers that epp need not see: Envoy keeps them back, and all but what was in them is still known."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.stack import DEPLOY
from epp.config.presets import PRESETS

from .engines import EVENT, LAST
from .rig import REWRITE, SERVED, Rig, chat, rig

ENDS = "{mode: ends, always: {header: x-bill-me}}"
RESPONSE = {"model": "base", "input": "hello"}


@asynccontextmanager
async def observing(
    tmp_path: Path, envoy: str, observe: str, *, engines: int = 1, override: bool = True
) -> AsyncIterator[Rig]:
    """A stack with this `observe` in epp's configuration; `override` False: Envoy takes none."""
    picker = tmp_path / "epp.yaml"
    picker.write_text(f"{PRESETS['expected-work'].text}\nepp:\n  observe: {observe}\n")
    if not override:
        text = (DEPLOY / envoy).read_text()
        assert "allow_mode_override: true" in text
        config = tmp_path / envoy
        config.write_text(text.replace("allow_mode_override: true", "allow_mode_override: false"))
        envoy = str(config)
    async with rig(tmp_path, envoy, engines=engines, flags=("--config-file", str(picker))) as stack:
        yield stack


def answers(stack: Rig, observed: bool, wanted: str) -> float:
    return stack.epp.metric(rf'epp_answers_total\{{observed="{str(observed).lower()}",wanted="{wanted}"\}}')


def mode(stack: Rig, gateway: str, effect: str) -> float:
    return stack.epp.metric(rf'epp_observation_mode\{{asked="\w+",gateway="{gateway}",effect="{effect}"\}}')


async def post(stack: Rig, **headers: str) -> dict[str, object]:
    """A request that is answered in one piece; the answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with stack.client.post("/v1/chat/completions", json=chat(), headers=named) as answer:
        assert answer.status == 200, await answer.text()
        said: dict[str, object] = await answer.json()
        return said


async def stream(stack: Rig, **headers: str) -> None:
    """A streamed request, in flight until its engine ends it."""
    request = chat(stream=True)
    named = {name.replace("_", "-"): value for name, value in headers.items()} | {"x-act": "stream"}
    for engine in stack.engines:
        engine.go.clear()
    async with stack.client.post("/v1/chat/completions", json=request, headers=named) as answer:
        assert await answer.content.readuntil(b"\n\n") == EVENT
        assert stack.epp.metric("llm_d_epp_inflight_requests") == 1
        stack.engine(answer.headers[SERVED]).go.set()
        assert await answer.content.read() == LAST
    await stack.idle()
    assert stack.epp.metric("llm_d_epp_inflight_tokens") == 0


@pytest.mark.parametrize("envoy", ["buffered.yaml", "buffered-partial.yaml"])
async def test_an_override_is_obeyed(tmp_path: Path, envoy: str) -> None:
    async with observing(tmp_path, envoy, ENDS) as stack:
        await stream(stack)
        await post(stack)
        await stack.idle()
        assert answers(stack, False, "none") == 2
        assert stack.epp.metric("llm_d_epp_request_ttft_seconds_count") == 0
        assert stack.epp.metric("llm_d_epp_request_duration_seconds_count") == 2
        assert stack.epp.metric("epp_estimated_tokens_total") > 0
        assert mode(stack, "choice", "ends") == 1

        request, headers = chat(stream=True), {"x-act": "stream"}
        left = await stack.client.post("/v1/chat/completions", json=request, headers=headers)
        await left.content.readuntil(b"\n\n")
        left.close()
        await stack.idle()
        assert answers(stack, True, "none") == 0, "no chunk has come"


async def test_who_must_be_seen_is_seen(tmp_path: Path) -> None:
    async with observing(tmp_path, "buffered.yaml", ENDS) as stack:
        await stream(stack, x_bill_me="1")
        await post(stack, x_bill_me="")
        await stack.idle()
        assert answers(stack, True, "asked") == 2
        assert stack.epp.metric("llm_d_epp_request_output_tokens_count") == 2

        said = await post(stack, **{REWRITE: "another-model"})
        assert said["model"] == "base", "the client sees the name it asked for"
        await stack.idle()
        assert answers(stack, True, "rewritten") == 1

        async with stack.client.post("/v1/responses", json=RESPONSE) as answer:
            assert answer.status == 200
        await stack.idle()
        assert answers(stack, True, "stored") == 1
        assert stack.epp.metric("epp_answers_total") == 4


async def test_by_default_some_are_looked_at(tmp_path: Path) -> None:
    async with observing(tmp_path, "buffered.yaml", "auto") as stack:
        for _ in range(30):
            await post(stack)
        await stack.idle()
        seen, unseen = answers(stack, True, "sample"), answers(stack, False, "none")
        assert seen >= 8
        assert unseen >= 8
        assert seen + unseen == 30
        assert mode(stack, "choice", "sampled") == 1


async def test_an_override_that_is_ignored_loses_nothing_and_is_said_once(tmp_path: Path) -> None:
    async with observing(tmp_path, "buffered.yaml", "ends", override=False) as stack:
        for _ in range(3):
            await post(stack)
            await stream(stack)
        assert answers(stack, True, "none") == 1
        assert answers(stack, True, "all") == 5
        assert stack.epp.metric("llm_d_epp_request_output_tokens_count") == 6
        assert mode(stack, "no-override", "all") == 1
        assert stack.epp.child.output().count("allow_mode_override is off") == 1


async def test_answers_that_are_never_shown(tmp_path: Path) -> None:
    async with observing(tmp_path, "ends.yaml", "auto", engines=2) as stack:
        await stream(stack)
        body = json.dumps(chat()).encode()
        headers = {REWRITE: "another-model"}
        async with stack.client.post("/v1/chat/completions", data=body, headers=headers) as answer:
            assert answer.status == 200
            said = await answer.json()
        assert said["model"] == "another-model", "the name is not put back"
        await stack.idle()
        assert answers(stack, False, "none") == 1
        assert answers(stack, False, "rewritten") == 1
        assert stack.epp.metric("llm_d_epp_request_duration_seconds_count") == 2
        assert mode(stack, "never", "ends") == 1
        output = stack.epp.child.output()
        assert output.count("no answer is looked at") == 1
        assert output.count("the answer names the rewritten model") == 1
        left = await stack.client.post(
            "/v1/chat/completions", json=chat(stream=True), headers={"x-act": "stream"}
        )
        left.close()
        await stack.idle()


async def test_full_duplex_shows_everything_whatever_is_asked_for(tmp_path: Path) -> None:
    async with observing(tmp_path, "standalone.yaml", "sampled") as stack:
        for _ in range(20):
            await post(stack)
        await stack.idle()
        assert answers(stack, True, "all") == 20
        assert mode(stack, "always", "all") == 1
        assert "which gateway settings 'sampled' needs" in stack.epp.child.output()
