"""Bodies of the OpenAI API to prompts and sampling limits, strictly typed. Raises Rejected with 400."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from xxhash import xxh3_64_digest

from epp.sim.sequence import Rejected
from epp.sim.tokens import pack, pack_chat, pack_ids

MEDIA_TOKENS = 256
"""What an image, a sound or another part that is not text counts."""
MAX_PROMPTS = 64
DEFAULT_COMPLETION_TOKENS = 16
"""vLLM's default of max_tokens for /v1/completions."""


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[msgspec.Raw] | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()


class Sampling(msgspec.Struct, kw_only=True):
    """Fields that both APIs share. Others are accepted and have no meaning here."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    n: int | None = None
    cache_salt: str | None = None


class ChatBody(Sampling, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: msgspec.Raw = msgspec.Raw()


class CompletionBody(Sampling, kw_only=True):
    prompt: str | list[Any]


class TokenizeBody(msgspec.Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


class LoraBody(msgspec.Struct, kw_only=True):
    lora_name: str
    lora_path: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A generation request, ready for the engine but for the keys of its blocks."""

    chat: bool
    model: str | None
    prompts: tuple[bytes, ...]
    """Packed tokens, one answer each."""
    stream: bool
    include_usage: bool
    max_tokens: int | None
    min_tokens: int
    ignore_eos: bool
    cache_salt: str


_NOTHING = (b"", b"null", b"[]")

Body = TypeVar("Body")


class Bodies:
    """Decoders, built once."""

    def __init__(self) -> None:
        self._chat = msgspec.json.Decoder(ChatBody)
        self._completion = msgspec.json.Decoder(CompletionBody)
        self._tokenize = msgspec.json.Decoder(TokenizeBody)
        self._lora = msgspec.json.Decoder(LoraBody)
        self._part = msgspec.json.Decoder(_Part)

    def chat(self, body: bytes) -> Ask:
        read = _decode(self._chat, body)
        if not read.messages:
            raise Rejected(400, "messages is empty", "messages")
        if read.max_completion_tokens is not None:
            read.max_tokens = read.max_completion_tokens
        return _ask(read, (self._render(read.messages, read.tools),), chat=True)

    def completion(self, body: bytes) -> Ask:
        read = _decode(self._completion, body)
        if read.max_tokens is None:
            read.max_tokens = DEFAULT_COMPLETION_TOKENS
        return _ask(read, _prompts(read.prompt), chat=False)

    def tokenize(self, body: bytes) -> bytes:
        """Packed tokens of a text or of a chat."""
        read = _decode(self._tokenize, body)
        if read.messages is not None:
            return self._render(read.messages, msgspec.Raw())
        if read.prompt is None:
            raise Rejected(400, "prompt or messages is required", "prompt")
        return pack(_utf8(read.prompt))

    def lora(self, body: bytes) -> LoraBody:
        return _decode(self._lora, body)

    def _render(self, messages: list[Message], tools: msgspec.Raw) -> bytes:
        turns = []
        for message in messages:
            content = message.content
            if isinstance(content, str):
                text = _utf8(content)
            elif content is None:
                text = b""
            else:
                text = b"".join([self._part_text(part) for part in content])
            calls = bytes(message.tool_calls)
            if calls not in _NOTHING:
                text = pack(text) + calls
            turns.append((message.role, text))
        preamble = bytes(tools)
        return pack_chat(turns, b"" if preamble in _NOTHING else preamble)

    def _part_text(self, raw: msgspec.Raw) -> bytes:
        part = _decode(self._part, bytes(raw))
        if part.text is not None:
            return _utf8(part.text)
        return xxh3_64_digest(bytes(raw)) * (MEDIA_TOKENS // 2)


def _ask(read: Sampling, prompts: tuple[bytes, ...], *, chat: bool) -> Ask:
    if read.n is not None and read.n != 1:
        raise Rejected(400, "n must be 1 here", "n")
    if read.max_tokens is not None and read.max_tokens < 1:
        raise Rejected(400, f"max_tokens must be at least 1, got {read.max_tokens}.", "max_tokens")
    min_tokens = read.min_tokens or 0
    if min_tokens < 0 or (read.max_tokens is not None and min_tokens > read.max_tokens):
        raise Rejected(400, f"min_tokens must be in 0 .. max_tokens, got {min_tokens}.", "min_tokens")
    options = read.stream_options
    return Ask(
        chat=chat,
        model=read.model,
        prompts=prompts,
        stream=bool(read.stream),
        include_usage=options is not None and bool(options.include_usage),
        max_tokens=read.max_tokens,
        min_tokens=min_tokens,
        ignore_eos=bool(read.ignore_eos),
        cache_salt=read.cache_salt or "",
    )


def _prompts(prompt: str | list[Any]) -> tuple[bytes, ...]:
    """A text, texts, token ids, or lists of token ids."""
    if isinstance(prompt, str):
        prompts = [pack(_utf8(prompt))]
    elif all(type(item) is int for item in prompt):
        prompts = [_ids(prompt)]
    elif all(isinstance(item, str) for item in prompt):
        prompts = [pack(_utf8(item)) for item in prompt]
    elif all(isinstance(item, list) and all(type(i) is int for i in item) for item in prompt):
        prompts = [_ids(item) for item in prompt]
    else:
        raise Rejected(400, "prompt must be a string, strings, token ids or lists of them", "prompt")
    if not prompts or not all(prompts):
        raise Rejected(400, "prompt is empty", "prompt")
    if len(prompts) > MAX_PROMPTS:
        raise Rejected(400, f"at most {MAX_PROMPTS} prompts in one request", "prompt")
    return tuple(prompts)


def _ids(ids: list[int]) -> bytes:
    try:
        return pack_ids(ids)
    except OverflowError:
        raise Rejected(400, "a token id is out of range", "prompt") from None


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Rejected(400, str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Rejected(400, f"The body is not valid JSON: {error}") from None
