"""deploy/envoy/sidecar.yaml: only the routes where models are ask the picker. And epp without endpoints."""

from __future__ import annotations

from pathlib import Path

from .rig import SERVED, chat, rig


async def test_only_model_routes_ask_the_picker(tmp_path: Path) -> None:
    async with rig(tmp_path, "sidecar.yaml", engines=2) as stack:
        async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
            assert answer.status == 200
            assert answer.headers[SERVED] in stack.by_port()
        await stack.idle()
        stack.epp.child.kill()
        async with stack.client.get("/ready") as answer:
            assert (answer.status, await answer.text()) == (200, "ready\n")
        async with stack.client.get("/elsewhere") as answer:
            assert answer.status == 404
        async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
            assert answer.status == 503
