"""Builds and parses bodies for the tests of this room."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from epp.domain.errors import Refused
from epp.domain.request import Request
from epp.parsing.select import PARSERS, Parsers
from tests import builders

ALL = Parsers([PARSERS[name]() for name in PARSERS])

TEXT = st.text('ab {}[]:,"\\/\n\t\0é日🙂', max_size=12)
"""Characters that JSON escapes, that take one to four bytes, or that look like structure."""

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def encoded(body: Any, *, ascii_only: bool = False) -> bytes:
    return json.dumps(body, ensure_ascii=ascii_only).encode()


def parse(
    path: str,
    body: Any,
    *,
    headers: Mapping[str, str] | None = None,
    truncated: bool = False,
    method: str = "POST",
    has_body: bool = True,
) -> Request:
    raw = body if isinstance(body, bytes) else encoded(body)
    head = builders.head(path, headers=headers, method=method, has_body=has_body)
    return ALL.parse(head, raw, truncated=truncated)


def refusal(path: str, body: Any, **more: Any) -> Refused:
    try:
        request = parse(path, body, **more)
    except Refused as refused:
        return refused
    raise AssertionError(f"not refused: {request}")


def text(request: Request) -> bytes:
    """Of a request with one prompt."""
    (prompt,) = request.prompts
    return prompt.text


def tokens(request: Request) -> list[list[int]]:
    return [list(map(int, prompt.tokens)) for prompt in request.prompts if prompt.tokens is not None]


CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"

SAMPLES: dict[str, Any] = {
    CHAT: {
        "model": "base", "stream": True, "max_tokens": 7, "cache_salt": "s", "tools": [{"type": "function"}],
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [
                {"type": "text", "text": "what is 日本\n?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
            ]},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
            {"role": "tool", "content": "42", "tool_call_id": "x"},
        ],
    },
    COMPLETIONS: {"model": "base", "prompt": ["one \"quoted\"", "two"], "max_tokens": 3},
    RESPONSES: {
        "model": "base", "instructions": "be brief", "max_output_tokens": 5, "previous_response_id": "resp_1",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
            {"type": "function_call_output", "call_id": "c", "output": "42"},
        ],
    },
    "/v1/conversations": {"model": "base", "items": [{"role": "user", "content": "hi"}]},
    "/v1/embeddings": {"model": "base", "input": [[1, 2], [3]]},
    "/v1/images/generations": {"model": "base", "prompt": "a cat"},
    "/v1/rerank": {"model": "base", "query": "q", "documents": ["a", "b"]},
    "/v1/score": {"model": "base", "text_1": "q", "text_2": ["a", "b"]},
    "/pooling": {"model": "base", "input": "p"},
    "/v1/audio/speech": {"model": "base", "input": "say"},
    MESSAGES: {
        "model": "base", "max_tokens": 9, "system": [{"type": "text", "text": "be brief"}],
        "tools": [{"name": "f"}],
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]},
        ],
    },
    "/v1/messages/count_tokens": {"model": "base", "messages": [{"role": "user", "content": "hi"}]},
    "/inference/v1/generate": {
        "model": "base", "token_ids": [5, 6, 7], "sampling_params": {"max_tokens": 4}, "cache_salt": "s"
    },
    "/generate": {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 4}, "extra_key": "s"},
}  # fmt: skip
