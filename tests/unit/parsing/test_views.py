"""A long body may come as a memoryview: every parser reads it as it reads bytes."""

from __future__ import annotations

import json

import pytest

from epp.domain.errors import Refused
from epp.domain.request import Body, Request, RequestHead
from epp.parsing.rewrite import splice_model
from epp.parsing.select import Parsers, default_parsers

TEXT = "a word " * 20_000
SAID = [{"role": "user", "content": TEXT}]
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    + b"\0" * 200_000
    + b"\r\n--x--\r\n"
)
BODIES: list[tuple[str, bytes]] = [
    ("/v1/chat/completions", json.dumps({"messages": SAID, "model": "m"}).encode()),
    ("/v1/chat/completions", json.dumps({"messages": SAID}).encode()),
    ("/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": [{}] * 60_000}]}).encode()),
    ("/v1/chat/completions", b"[" * 100_000),
    ("/v1/completions", json.dumps({"model": "m", "prompt": list(range(30_000))}).encode()),
    ("/v1/completions", json.dumps({"model": "m", "prompt": [TEXT, TEXT]}).encode()),
    ("/v1/responses", json.dumps({"model": "m", "input": TEXT}).encode()),
    ("/v1/messages", json.dumps({"model": "m", "max_tokens": 5, "messages": SAID}).encode()),
    ("/v1/embeddings", json.dumps({"model": "m", "input": [TEXT] * 3}).encode()),
    ("/v1/rerank", json.dumps({"model": "m", "query": "q", "documents": [TEXT]}).encode()),
    ("/v1/audio/transcriptions", FORM),
    ("/inference/v1/generate", json.dumps({"model": "m", "token_ids": list(range(30_000))}).encode()),
    ("/anything", b"\xff" * 100_000),
]  # fmt: skip


def _parsed(path: str, body: Body, truncated: bool, headers: dict[str, str]) -> Request | str:
    head = RequestHead(headers=headers, method="POST", path=path, request_id="r", received_at=0.0)
    try:
        return Parsers(default_parsers()).parse(head, body, truncated=truncated)
    except Refused as refused:
        return f"{refused.reason} {refused.message} {refused.param}"


def _told(found: Request | str) -> object:
    if isinstance(found, str):
        return found
    prompts = [(p.text, None if p.tokens is None else p.tokens.tolist()) for p in found.prompts]
    return (found.api, found.model, found.model_span, found.size_bytes, found.max_output_tokens, prompts)


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize(("path", "body"), BODIES)
def test_a_view_is_read_as_bytes_are(path: str, body: bytes, truncated: bool, rewritten: bool) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"} if path.endswith("transcriptions") else {}
    if rewritten:
        headers["x-gateway-model-name-rewrite"] = "target"
    plain = _parsed(path, body, truncated, headers)
    shown = _parsed(path, memoryview(body), truncated, headers)
    assert _told(shown) == _told(plain)
    if isinstance(plain, Request) and plain.model_span is not None:
        spliced = splice_model(body, plain.model_span, "target")
        assert splice_model(memoryview(body), plain.model_span, "target") == spliced
