"""OpenAI messages and input items -> the flat text whose blocks are hashed.

The order is the reference's: tools, then role and content of each message. What a message gives does not
depend on what follows it, so the text of a conversation's turn is a prefix of the next turn's, as in the
engine's cache.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from epp.parsing.body import decode
from epp.parsing.media import (
    AUDIO_TOKENS,
    FILE_TOKENS,
    IMAGE_TOKENS,
    VIDEO_TOKENS,
    placeholder,
)
from epp.parsing.rawjson import NONE, is_set


class Part(msgspec.Struct, gc=False):
    """One element of an array content, of chat completions or of responses."""

    text: str | None = None
    refusal: str | None = None
    thinking: str | None = None
    image_url: msgspec.Raw = NONE
    image_embeds: msgspec.Raw = NONE
    video_url: msgspec.Raw = NONE
    audio_url: msgspec.Raw = NONE
    input_audio: msgspec.Raw = NONE
    file: msgspec.Raw = NONE
    file_url: msgspec.Raw = NONE
    file_data: msgspec.Raw = NONE
    file_id: msgspec.Raw = NONE
    type: str | None = None


class Message(msgspec.Struct, gc=False):
    """A chat message, or an item of a responses input: there calls and their results have no role."""

    role: str | None = None
    content: str | list[Part | str] | None = None
    tool_calls: msgspec.Raw = NONE
    name: str | None = None
    arguments: msgspec.Raw = NONE
    output: msgspec.Raw = NONE
    summary: msgspec.Raw = NONE


_ROLES = {
    role: f"{role}\n".encode() for role in ("system", "developer", "user", "assistant", "tool", "function")
}
_OUTPUT: msgspec.json.Decoder[str | list[Part] | Part] = msgspec.json.Decoder(str | list[Part] | Part)


def add_raw(out: list[bytes], raw: msgspec.Raw) -> None:
    """A JSON value as it stands in the body; null and empty arrays add nothing."""
    value = bytes(raw)
    if value not in (b"", b"null", b"[]"):
        out.append(value)
        out.append(b"\n")


def add_messages(out: list[bytes], messages: Iterable[Message]) -> None:
    for message in messages:
        role = message.role
        if role:
            out.append(_ROLES.get(role) or f"{role}\n".encode())
        content = message.content
        if type(content) is str:
            out.append(content.encode())
        elif content is not None:
            for part in content:
                if type(part) is str:
                    out.append(part.encode())
                else:
                    _add_part(out, part)  # type: ignore[arg-type]
        out.append(b"\n")
        if message.tool_calls is not NONE:
            add_raw(out, message.tool_calls)
        if role is None:
            _add_item(out, message)


def _add_item(out: list[bytes], item: Message) -> None:
    """A call, its result or a reasoning summary."""
    if item.name:
        out.append(f"{item.name}\n".encode())
    if item.arguments is not NONE:
        add_raw(out, item.arguments)
    if item.summary is not NONE:
        add_raw(out, item.summary)
    if is_set(item.output):
        _add_output(out, item.output)


def _add_output(out: list[bytes], raw: msgspec.Raw) -> None:
    """What a call gave: text, parts, or one part such as a screenshot."""
    content = decode(_OUTPUT, memoryview(raw), at="input[].output")
    if isinstance(content, str):
        out.append(content.encode())
    else:
        for part in content if isinstance(content, list) else (content,):
            _add_part(out, part)
    out.append(b"\n")


def _add_part(out: list[bytes], part: Part) -> None:
    if part.text is not None:
        out.append(part.text.encode())
        return
    out.extend(text.encode() for text in (part.thinking, part.refusal) if text is not None)
    for raw, tokens in (
        (part.image_url, IMAGE_TOKENS),
        (part.image_embeds, IMAGE_TOKENS),
        (part.video_url, VIDEO_TOKENS),
        (part.audio_url, AUDIO_TOKENS),
        (part.input_audio, AUDIO_TOKENS),
        (part.file, FILE_TOKENS),
        (part.file_url, FILE_TOKENS),
        (part.file_data, FILE_TOKENS),
        (part.file_id, FILE_TOKENS),
    ):
        if raw is not NONE and is_set(raw):
            out.append(placeholder(raw, tokens))
