"""Bodies of a million tiny values: the top level is decoded, the prompt's JSON is hashed as it is."""

from __future__ import annotations

import msgspec

from epp.domain.errors import Reason, Refused
from epp.domain.request import Api, Body, Prompt, Request, RequestHead
from epp.parsing.body import Fields, decode_body, model_of
from epp.parsing.flatten import add_raw
from epp.parsing.rawjson import NONE


class Coarse(Fields):
    tools: msgspec.Raw = NONE
    system: msgspec.Raw = NONE
    instructions: msgspec.Raw = NONE
    messages: msgspec.Raw = NONE
    input: msgspec.Raw = NONE
    items: msgspec.Raw = NONE
    previous_response_id: str | None = None


_COARSE = msgspec.json.Decoder(Coarse)


def parse_coarse(
    head: RequestHead, api: Api, body: Body, truncated: bool, *, model_needed: bool = True
) -> Request:
    fields = decode_body(_COARSE, head, body, truncated)
    out: list[bytes] = []
    for raw in (
        fields.tools, fields.system, fields.instructions, fields.messages, fields.input, fields.items
    ):  # fmt: skip
        add_raw(out, raw)
    if not out and not truncated:
        raise Refused(Reason.MALFORMED, "The body has no prompt.")
    model, span = model_of(head, fields.model, body, truncated, needed=model_needed)
    return Request(
        head=head,
        api=api,
        model=model,
        target_model=model,
        size_bytes=len(body),
        stream=fields.stream is True,
        prompts=(Prompt(text=b"".join(out)),),
        cache_salt=fields.cache_salt or "",
        previous_response_id=fields.previous_response_id or "",
        model_span=span,
    )
