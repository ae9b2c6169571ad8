"""anthropic-parser: /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from typing import Final

import msgspec

from epp.domain.request import Api, Body, Prompt, Request, RequestHead
from epp.parsing.body import Fields, decode_body, is_coarse, missing
from epp.parsing.coarse import parse_coarse
from epp.parsing.flatten import add_raw
from epp.parsing.media import FILE_TOKENS, IMAGE_TOKENS, placeholder
from epp.parsing.openai import limit, request_of
from epp.parsing.parser import BodyParser, Parser
from epp.parsing.rawjson import NONE, is_set

BILLING: Final = "x-anthropic-billing-header"
"""Claude Code puts a system block that begins so before all others; it changes with every request and engines
drop it, else nothing of a session would ever be found in a cache."""


class Block(msgspec.Struct, gc=False):
    """A content block: text, thinking, tool_use, tool_result, image, document."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    name: str | None = None
    input: msgspec.Raw = NONE
    content: str | list[Block] | Block | None = None
    source: msgspec.Raw = NONE


class Turn(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | list[Block] | None = None


class Messages(Fields):
    messages: list[Turn] | None = None
    system: str | list[Block] | None = None
    tools: msgspec.Raw = NONE
    max_tokens: int | float | None = None


_MESSAGES = msgspec.json.Decoder(Messages)


def parse_messages(head: RequestHead, body: Body, truncated: bool) -> Request:
    return _parse(head, body, truncated, skip_response=False)


def parse_count_tokens(head: RequestHead, body: Body, truncated: bool) -> Request:
    return _parse(head, body, truncated, skip_response=True)


def _parse(head: RequestHead, body: Body, truncated: bool, *, skip_response: bool) -> Request:
    if is_coarse(body):
        request = parse_coarse(head, Api.ANTHROPIC, body, truncated)
        request.skip_response = skip_response
        return request
    fields = decode_body(_MESSAGES, head, body, truncated)
    if fields.messages is None and not truncated:
        raise missing("messages")
    out: list[bytes] = []
    add_raw(out, fields.tools)
    if fields.system is not None:
        out.append(b"system\n")
        _add(out, fields.system)
        out.append(b"\n")
    for turn in fields.messages or ():
        if turn.role:
            out.append(f"{turn.role}\n".encode())
        _add(out, turn.content)
        out.append(b"\n")
    return request_of(
        head, Api.ANTHROPIC, body, fields, (Prompt(text=b"".join(out)),), truncated,
        max_output_tokens=limit("max_tokens", fields.max_tokens), skip_response=skip_response,
    )  # fmt: skip


def _add(out: list[bytes], content: str | list[Block] | Block | None) -> None:
    if content is None:
        return
    if isinstance(content, str):
        out.append(content.encode())
        return
    for block in content if isinstance(content, list) else (content,):
        if block.text is not None:
            if not block.text.startswith(BILLING):
                out.append(block.text.encode())
            continue
        if block.thinking is not None:
            out.append(block.thinking.encode())
        if block.name is not None:
            out.append(block.name.encode())
        if block.input is not NONE:
            add_raw(out, block.input)
        _add(out, block.content)
        if block.source is not NONE and is_set(block.source):
            tokens = IMAGE_TOKENS if block.type == "image" else FILE_TOKENS
            out.append(placeholder(block.source, tokens))


_CLAIMS: dict[str, BodyParser] = {
    "messages": parse_messages,
    "messages/count_tokens": parse_count_tokens,
}


def anthropic_parser() -> Parser:
    return Parser("anthropic-parser", _CLAIMS)
