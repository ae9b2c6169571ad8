"""What epp refuses reaches the client as it was said, through Envoy."""

from __future__ import annotations

from pathlib import Path

from .rig import SERVED, chat, rig

LIMITED = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
epp:
  limits: {maxStreams: 1}
"""


async def test_an_empty_pool_is_503(tmp_path: Path) -> None:
    async with rig(tmp_path, "standalone.yaml", engines=0) as stack:
        for ask in (
            stack.client.post("/v1/chat/completions", json=chat()),
            stack.client.get("/v1/models/base"),
        ):
            async with ask as answer:
                assert answer.status == 503
                assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
                assert int(answer.headers["retry-after"]) > 0
                assert (await answer.json())["error"]["code"] == "no_endpoints"
        await stack.idle()


async def test_too_many_streams_are_429(tmp_path: Path) -> None:
    config = tmp_path / "limited.yaml"
    config.write_text(LIMITED)
    async with rig(tmp_path, "standalone.yaml", engines=1, flags=["--config-file", str(config)]) as stack:
        headers = {"x-act": "stream"}
        request = chat(stream=True)
        async with stack.client.post("/v1/chat/completions", json=request, headers=headers) as first:
            await first.content.readuntil(b"\n\n")
            async with stack.client.post("/v1/chat/completions", json=chat()) as second:
                assert second.status == 429
                assert second.headers["content-type"] == "application/json"
                assert int(second.headers["retry-after"]) > 0
                assert (await second.json())["error"]["code"] == "too_many_requests"
            stack.engine(first.headers[SERVED]).go.set()
            await first.read()
        await stack.idle()
        async with stack.client.post("/v1/chat/completions", json=chat()) as third:
            assert third.status == 200
