"""vllmgrpc-parser: vLLM's gRPC service (package vllm.grpc.engine, service VllmEngine).

The messages' field numbers are those of vLLM's vllm/grpc/vllm_engine.proto.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from epp.domain.errors import Reason, Refused
from epp.domain.request import Api, Body, Prompt, Request, RequestHead
from epp.parsing.parser import BodyParser, Parser
from epp.parsing.protowire import Broken, fields
from epp.parsing.varints import uint32s

SERVICE: Final = "vllm.grpc.engine.VllmEngine/"
FRAME_HEAD: Final = 5
# GenerateRequest and EmbedRequest
_TOKENIZED, _TEXT, _SAMPLING, _STREAM = 2, 3, 4, 5
# TokenizedInput, SamplingParams
_INPUT_IDS, _MAX_TOKENS = 2, 8


def message_of(body: Body, truncated: bool) -> memoryview:
    """The one message of a unary gRPC request body: a byte of flags, four of length, then the message."""
    size = int.from_bytes(body[1:FRAME_HEAD], "big")
    if len(body) < FRAME_HEAD or body[0] != 0 or (not truncated and len(body) != FRAME_HEAD + size):
        raise Refused(Reason.MALFORMED, "Invalid or unsupported gRPC payload: not one uncompressed message.")
    return memoryview(body)[FRAME_HEAD : FRAME_HEAD + size]


def parse_generate(head: RequestHead, body: Body, truncated: bool) -> Request:
    """Also Embed, whose only input is `tokenized`, under the same number."""
    prompts: tuple[Prompt, ...] = ()
    stream = False
    asked: int | None = None
    try:
        for number, value in fields(message_of(body, truncated)):
            if isinstance(value, int):
                if number == _STREAM:
                    stream = value != 0
            elif number == _TEXT:
                prompts = (Prompt(text=bytes(value)),)
            elif number == _TOKENIZED:
                prompts = (Prompt(tokens=_input_ids(value)),)
            elif number == _SAMPLING:
                asked = next((v for n, v in fields(value) if n == _MAX_TOKENS and isinstance(v, int)), None)
    except (Broken, Refused) as error:
        if not truncated:
            if isinstance(error, Refused):
                raise
            raise Refused(Reason.MALFORMED, f"Invalid or unsupported gRPC payload: {error}.") from None
    if not prompts and not truncated:
        raise Refused(Reason.MALFORMED, "The gRPC request has no input.", param="input")
    return Request(
        head=head,
        api=Api.VLLM_GRPC,
        model="",
        target_model="",
        size_bytes=len(body),
        stream=stream,
        prompts=prompts,
        max_output_tokens=asked,
    )


def parse_other(head: RequestHead, body: Body, truncated: bool) -> Request:
    """HealthCheck, Abort, GetModelInfo and what may come: routed anywhere, the answer is of no interest."""
    return Request(
        head=head, api=Api.OPAQUE, model="", target_model="", size_bytes=len(body), skip_response=True
    )


def _input_ids(tokenized: memoryview) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """Packed, or one by one as old encoders write them."""
    packed: list[bytes] = []
    for number, value in fields(tokenized):
        if number == _INPUT_IDS:
            packed.append(bytes(value) if isinstance(value, memoryview) else _varint(value))
    try:
        return uint32s(b"".join(packed))
    except ValueError as error:
        raise Broken(str(error)) from None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_CLAIMS: dict[str, BodyParser] = {
    SERVICE + "Generate": parse_generate,
    SERVICE + "Embed": parse_generate,
}


def vllmgrpc_parser() -> Parser:
    return Parser("vllmgrpc-parser", _CLAIMS, fallback=parse_other, h2c_only=True)
