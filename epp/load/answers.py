"""Reads an OpenAI-style answer, streamed or whole, and notes when its tokens came."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

MAX_EVENT_BYTES = 8 << 20
MAX_ANSWER_BYTES = 64 << 20


class _Function(msgspec.Struct, gc=False):
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Text(msgspec.Struct, gc=False):
    """`delta` of a chunk, `message` of a whole answer."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Text | None = None
    message: _Text | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Body(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class Answer:
    """What one answer said. `feed` takes its body in any pieces, `finish` says what is wrong with it."""

    __slots__ = (
        "_buffer",
        "_decoder",
        "_done",
        "_finished",
        "_last_at",
        "_parts",
        "_size",
        "_whole",
        "cached_tokens",
        "detail",
        "error",
        "first_token_at",
        "gaps",
        "prompt_tokens",
        "stream",
        "token_chunks",
        "usage_output_tokens",
    )

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.first_token_at: float | None = None
        self.gaps = array("d")
        """Seconds between one chunk that carried text and the next: the inter-token latencies."""
        self.token_chunks = 0
        self.prompt_tokens: int | None = None
        self.usage_output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.error = ""
        self.detail = ""
        self._parts: list[str] = []
        self._buffer = b""
        self._whole = bytearray()
        self._size = 0
        self._last_at = 0.0
        self._done = False
        self._finished = False
        self._decoder = _DECODER

    def feed(self, data: bytes, at: float) -> None:
        """`at`: when the bytes came, on the clock of the caller."""
        if self.error:
            return
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            self._fail("answer-too-long", f"more than {MAX_ANSWER_BYTES} bytes")
            return
        if not self.stream:
            self._whole += data
            return
        lines = (self._buffer + data if self._buffer else data).split(b"\n")
        self._buffer = lines.pop()
        if len(self._buffer) > MAX_EVENT_BYTES:
            self._fail("answer-too-long", f"an event of more than {MAX_EVENT_BYTES} bytes")
            return
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), at)

    def finish(self) -> None:
        """The body is complete. Sets `error` if it is not a whole, readable answer."""
        if self.error:
            return
        if self.stream:
            if not self._done and not self._finished:
                self._fail("cut-short", "the stream ended without a finish reason")
            return
        body = self._decode(self._whole)
        self._whole.clear()
        if body is None:
            return
        self._read(body)
        for choice in body.choices[:1]:
            self._parts.append(choice.text or (choice.message.content if choice.message else None) or "")

    @property
    def text(self) -> str:
        """Of the first choice, without reasoning: what a chat client sends back in the next turn."""
        return "".join(self._parts)

    @property
    def output_tokens(self) -> int:
        """As the engine counted them, else one a chunk."""
        return self.token_chunks if self.usage_output_tokens is None else self.usage_output_tokens

    def _event(self, payload: bytes, at: float) -> None:
        if payload == b"[DONE]":
            self._done = True
            return
        body = self._decode(payload)
        if body is None:
            return
        self._read(body)
        carried = False
        for choice in body.choices:
            if choice.finish_reason:
                self._finished = True
            text = choice.text
            if choice.delta is not None:
                text = choice.delta.content
                carried |= _beside_content(choice.delta)
            if text:
                carried = True
                if choice.index == 0:
                    self._parts.append(text)
        if carried:
            self.token_chunks += 1
            if self.first_token_at is None:
                self.first_token_at = at
            else:
                self.gaps.append(at - self._last_at)
            self._last_at = at

    def _decode(self, payload: bytes | bytearray) -> _Body | None:
        try:
            return self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._fail("bad-answer", str(error))
            return None

    def _read(self, body: _Body) -> None:
        if body.error is not None:
            self._fail("error-in-stream" if self.stream else "error-in-answer", str(body.error)[:200])
        usage = body.usage
        if usage is None:
            return
        if usage.prompt_tokens is not None:
            self.prompt_tokens = usage.prompt_tokens
        if usage.completion_tokens is not None:
            self.usage_output_tokens = usage.completion_tokens
        if usage.prompt_tokens_details is not None and usage.prompt_tokens_details.cached_tokens is not None:
            self.cached_tokens = usage.prompt_tokens_details.cached_tokens

    def _fail(self, error: str, detail: str) -> None:
        self.error, self.detail = error, detail
        self._buffer = b""


_DECODER = msgspec.json.Decoder(_Body)


def _beside_content(text: _Text) -> bool:
    """Tokens that came as reasoning or as a tool call."""
    if text.reasoning_content or text.reasoning:
        return True
    return any(call.function is not None and call.function.arguments for call in text.tool_calls or ())
