"""`response_body_mode: NONE`: chunks cost the picker nothing, and the end of a request is still known."""

from __future__ import annotations

from pathlib import Path

from .engines import EVENT, LAST
from .rig import SERVED, chat, rig


async def test_the_end_of_an_unseen_answer_is_known(tmp_path: Path) -> None:
    async with rig(tmp_path, "standalone.yaml", engines=1, values={"answer_body": "NONE"}) as stack:
        request = chat(stream=True)
        headers = {"x-act": "stream"}
        async with stack.client.post("/v1/chat/completions", json=request, headers=headers) as answer:
            assert await answer.content.readuntil(b"\n\n") == EVENT
            assert stack.epp.metric("llm_d_epp_inflight_requests") == 1
            stack.engine(answer.headers[SERVED]).go.set()
            assert await answer.content.read() == LAST
        await stack.idle()
        left = await stack.client.post("/v1/chat/completions", json=request, headers=headers)
        left.close()
        await stack.idle()
