"""openai-parser: OpenAI's calls, and the rerank, score and pooling calls that engines put beside them."""

from __future__ import annotations

from typing import Final

import msgspec

from epp.domain.errors import Reason, Refused
from epp.domain.request import Api, Body, Prompt, Request, RequestHead
from epp.parsing.body import Fields, decode_body, is_coarse, missing, model_of
from epp.parsing.coarse import parse_coarse
from epp.parsing.flatten import Message, add_messages, add_raw
from epp.parsing.multipart import parse_audio_form
from epp.parsing.parser import BodyParser, Parser
from epp.parsing.prompts import prompts_of
from epp.parsing.rawjson import NONE, is_set

MAX_OUTPUT_TOKENS: Final = 2**31 - 1


class Chat(Fields):
    messages: list[Message] | None = None
    tools: msgspec.Raw = NONE
    max_completion_tokens: int | float | None = None
    max_tokens: int | float | None = None


class Completions(Fields):
    prompt: msgspec.Raw = NONE
    prompt_embeds: msgspec.Raw = NONE
    max_tokens: int | float | None = None


class Responses(Fields):
    input: str | list[Message] | None = None
    instructions: str | list[Message] | None = None
    tools: msgspec.Raw = NONE
    max_output_tokens: int | float | None = None
    previous_response_id: str | None = None


class Conversations(Fields):
    items: list[Message] | None = None


class Embeddings(Fields):
    input: msgspec.Raw = NONE
    messages: list[Message] | None = None


class Images(Fields):
    prompt: str | None = None


class Speech(Fields):
    input: str | None = None


class Rerank(Fields):
    """Rerank and score: which of the texts are given depends on the path and the engine's version."""

    query: msgspec.Raw = NONE
    queries: msgspec.Raw = NONE
    text_1: msgspec.Raw = NONE
    documents: msgspec.Raw = NONE
    text_2: msgspec.Raw = NONE
    items: msgspec.Raw = NONE
    data_1: msgspec.Raw = NONE
    data_2: msgspec.Raw = NONE


_CHAT = msgspec.json.Decoder(Chat)
_COMPLETIONS = msgspec.json.Decoder(Completions)
_RESPONSES = msgspec.json.Decoder(Responses)
_CONVERSATIONS = msgspec.json.Decoder(Conversations)
_EMBEDDINGS = msgspec.json.Decoder(Embeddings)
_IMAGES = msgspec.json.Decoder(Images)
_SPEECH = msgspec.json.Decoder(Speech)
_RERANK = msgspec.json.Decoder(Rerank)


def limit(field: str, value: int | float | None) -> int | None:
    """Output tokens, bounded; a float counts when it is a whole number, and what is negative is the engine's
    to refuse."""
    if value is None or value < 0:
        return None
    if value != int(value):
        raise Refused(Reason.MALFORMED, f"`{field}` must be a whole number.", param=field)
    return int(min(value, MAX_OUTPUT_TOKENS))


def request_of(
    head: RequestHead,
    api: Api,
    body: Body,
    fields: Fields,
    prompts: tuple[Prompt, ...],
    truncated: bool,
    *,
    model_needed: bool = True,
    max_output_tokens: int | None = None,
    previous_response_id: str = "",
    skip_response: bool = False,
) -> Request:
    model, span = model_of(head, fields.model, body, truncated, needed=model_needed)
    return Request(
        head=head,
        api=api,
        model=model,
        target_model=model,
        size_bytes=len(body),
        stream=fields.stream is True,
        prompts=prompts,
        cache_salt=fields.cache_salt or "",
        max_output_tokens=max_output_tokens,
        previous_response_id=previous_response_id,
        skip_response=skip_response,
        model_span=span,
    )


def parse_chat(head: RequestHead, body: Body, truncated: bool) -> Request:
    if is_coarse(body):
        return parse_coarse(head, Api.CHAT, body, truncated)
    fields = decode_body(_CHAT, head, body, truncated)
    if fields.messages is None and not truncated:
        raise missing("messages")
    out: list[bytes] = []
    if fields.tools is not NONE:
        add_raw(out, fields.tools)
    add_messages(out, fields.messages or ())
    asked = limit("max_completion_tokens", fields.max_completion_tokens)
    if asked is None:
        asked = limit("max_tokens", fields.max_tokens)
    prompt = Prompt(b"".join(out))
    return request_of(head, Api.CHAT, body, fields, (prompt,), truncated, max_output_tokens=asked)


def parse_completions(head: RequestHead, body: Body, truncated: bool) -> Request:
    fields = decode_body(_COMPLETIONS, head, body, truncated)
    prompts: tuple[Prompt, ...] = ()
    if is_set(fields.prompt):
        prompts = prompts_of(fields.prompt, "prompt")
    elif not truncated and not is_set(fields.prompt_embeds):
        raise missing("prompt")
    asked = limit("max_tokens", fields.max_tokens)
    return request_of(head, Api.COMPLETIONS, body, fields, prompts, truncated, max_output_tokens=asked)


def parse_responses(head: RequestHead, body: Body, truncated: bool) -> Request:
    if is_coarse(body):
        return parse_coarse(head, Api.RESPONSES, body, truncated)
    fields = decode_body(_RESPONSES, head, body, truncated)
    if fields.input is None and not truncated:
        raise missing("input")
    out: list[bytes] = []
    if fields.instructions is not None:
        add_messages(out, _items("system", fields.instructions))
    add_raw(out, fields.tools)
    if fields.input is not None:
        add_messages(out, _items("user", fields.input))
    return request_of(
        head, Api.RESPONSES, body, fields, (Prompt(text=b"".join(out)),), truncated,
        max_output_tokens=limit("max_output_tokens", fields.max_output_tokens),
        previous_response_id=fields.previous_response_id or "",
    )  # fmt: skip


def parse_conversations(head: RequestHead, body: Body, truncated: bool) -> Request:
    if is_coarse(body):
        return parse_coarse(head, Api.CONVERSATIONS, body, truncated, model_needed=False)
    fields = decode_body(_CONVERSATIONS, head, body, truncated)
    if fields.items is None and not truncated:
        raise missing("items")
    out: list[bytes] = []
    add_messages(out, fields.items or ())
    prompts = (Prompt(text=b"".join(out)),)
    # The API has no model; the reference wants one, which would refuse every client that follows the API.
    return request_of(head, Api.CONVERSATIONS, body, fields, prompts, truncated, model_needed=False)


def parse_embeddings(head: RequestHead, body: Body, truncated: bool) -> Request:
    if is_coarse(body):
        return parse_coarse(head, Api.EMBEDDINGS, body, truncated)
    fields = decode_body(_EMBEDDINGS, head, body, truncated)
    prompts: tuple[Prompt, ...] = ()
    if is_set(fields.input):
        prompts = prompts_of(fields.input, "input")
    elif fields.messages is not None:
        out: list[bytes] = []
        add_messages(out, fields.messages)
        prompts = (Prompt(text=b"".join(out)),)
    elif not truncated:
        raise missing("input")
    return request_of(head, Api.EMBEDDINGS, body, fields, prompts, truncated)


def parse_images(head: RequestHead, body: Body, truncated: bool) -> Request:
    fields = decode_body(_IMAGES, head, body, truncated)
    return _of_text(head, Api.IMAGES, body, fields, "prompt", fields.prompt, truncated)


def parse_speech(head: RequestHead, body: Body, truncated: bool) -> Request:
    fields = decode_body(_SPEECH, head, body, truncated)
    return _of_text(head, Api.AUDIO, body, fields, "input", fields.input, truncated)


def parse_rerank(head: RequestHead, body: Body, truncated: bool) -> Request:
    """One prompt of query and documents. The engine repeats the query with every document; counting that here
    would let a small body become an enormous prompt."""
    fields = decode_body(_RERANK, head, body, truncated)
    out: list[bytes] = []
    for name in ("query", "queries", "text_1", "data_1", "documents", "text_2", "data_2", "items"):
        add_raw(out, getattr(fields, name))
    if not out and not truncated:
        raise missing("query" if head.path.endswith("rerank") else "text_1")
    return request_of(head, Api.RERANK, body, fields, (Prompt(text=b"".join(out)),), truncated)


def parse_audio(head: RequestHead, body: Body, truncated: bool) -> Request:
    """Transcriptions and translations: a form, or JSON of the same fields."""
    if head.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return parse_audio_form(head, body, truncated)
    fields = decode_body(_SPEECH, head, body, truncated)
    return request_of(head, Api.AUDIO, body, fields, (), truncated)


def _items(role: str, value: str | list[Message]) -> list[Message]:
    return [Message(role=role, content=value)] if isinstance(value, str) else value


def _of_text(
    head: RequestHead, api: Api, body: Body, fields: Fields, name: str, text: str | None, truncated: bool
) -> Request:
    if text is None and not truncated:
        raise missing(name)
    return request_of(head, api, body, fields, (Prompt(text=(text or "").encode()),), truncated)


_CLAIMS: dict[str, BodyParser] = {
    "chat/completions": parse_chat,
    "chat/completions/render": parse_chat,
    "completions": parse_completions,
    "completions/render": parse_completions,
    "embeddings": parse_embeddings,
    "responses": parse_responses,
    "conversations": parse_conversations,
    "images/generations": parse_images,
    # Not claimed by the reference:
    "/rerank": parse_rerank,
    "/score": parse_rerank,
    "/pooling": parse_embeddings,
    "audio/speech": parse_speech,
    "audio/transcriptions": parse_audio,
    "audio/translations": parse_audio,
}


def openai_parser() -> Parser:
    return Parser("openai-parser", _CLAIMS)
