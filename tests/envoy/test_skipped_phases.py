"""Envoy told to skip phases: what it does not show is not awaited, and no answer breaks by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.stack import DEPLOY

from .rig import REWRITE, chat, rig


def without(tmp_path: Path, name: str, *phases: str) -> str:
    """The deployed configuration with these phases skipped."""
    text = (DEPLOY / name).read_text()
    for phase in phases:
        assert f"{phase}: SEND" in text
        text = text.replace(f"{phase}: SEND", f"{phase}: SKIP")
    path = tmp_path / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", ["standalone.yaml", "buffered.yaml", "buffered-partial.yaml"])
async def test_answer_headers_are_not_shown(tmp_path: Path, name: str) -> None:
    """A rewritten request's answer keeps the target's name then: its length has gone out."""
    config = without(tmp_path, name, "response_header_mode")
    async with rig(tmp_path, config, engines=2) as stack:
        for headers in ({}, {REWRITE: "another-model"}):
            async with stack.client.post("/v1/chat/completions", json=chat(), headers=headers) as answer:
                assert answer.status == 200
                said = await answer.json()
            assert said["model"] == headers.get(REWRITE, "base")
            await stack.idle()


@pytest.mark.parametrize("name", ["standalone.yaml", "buffered.yaml"])
async def test_request_headers_are_not_shown(tmp_path: Path, name: str) -> None:
    """Envoy has let them go to its router before a body could change them: no endpoint, but no hang."""
    config = without(tmp_path, name, "request_header_mode")
    async with rig(tmp_path, config, engines=2) as stack:
        # Without a path the body is taken as that of a completion.
        body = {"model": "base", "prompt": "hello"}
        async with stack.client.post("/v1/completions", json=body) as answer:
            assert answer.status == 503
        assert stack.by_port() == {engine.address: 0 for engine in stack.engines}
        await stack.idle()


async def test_trailers_are_not_shown(tmp_path: Path) -> None:
    config = without(tmp_path, "buffered.yaml", "request_trailer_mode", "response_trailer_mode")
    async with rig(tmp_path, config, engines=2) as stack:
        async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
            assert answer.status == 200
        await stack.idle()
