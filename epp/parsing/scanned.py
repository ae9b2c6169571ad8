"""Long bodies whose prompt was hashed while they came in: what is left of them is parsed, the text is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from epp.domain.request import Api, Body, Request, RequestHead, Scanned, ScannedPrompt
from epp.parsing.openai import parse_chat, parse_completions
from epp.parsing.parser import BodyParser

_EMPTY_BYTES: Final = 2
"""Of what stands in place of the value: `[]` or `""`."""

SCANNABLE: Final[Mapping[BodyParser, Api]] = {parse_chat: Api.CHAT, parse_completions: Api.COMPLETIONS}
"""The parsers whose bodies the native transport can scan."""


def parse_scanned(parse: BodyParser, head: RequestHead, body: Body, scanned: Scanned) -> Request:
    """As `parse` of the whole body, in time that does not grow with the prompt."""
    request = parse(head, scanned.rest, False)

    def text() -> bytes:
        return b"".join([prompt.text for prompt in parse(head, body, False).prompts])

    prompt = ScannedPrompt(scanned, text)
    request.prompts = (prompt,)
    request.input_tokens = prompt.length
    request.size_bytes = len(body)
    if request.model_span is not None and request.model_span[0] > scanned.start:
        moved = scanned.removed_bytes - _EMPTY_BYTES
        request.model_span = request.model_span[0] + moved, request.model_span[1] + moved
    return request
