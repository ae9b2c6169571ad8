"""vllmhttp-parser and sglanghttp-parser: the engines' own generate calls, mostly with token ids."""

from __future__ import annotations

import msgspec
from xxhash import xxh64_intdigest

from epp.domain.request import Api, Body, Prompt, Request, RequestHead
from epp.parsing.body import Fields, decode, decode_body, missing
from epp.parsing.openai import limit, request_of
from epp.parsing.parser import Parser
from epp.parsing.prompts import prompts_of
from epp.parsing.rawjson import NONE, is_set, opening


class Sampling(msgspec.Struct):
    max_tokens: int | float | None = None
    max_new_tokens: int | float | None = None


class Range(msgspec.Struct):
    offset: int = 0
    length: int = 0


class Features(msgspec.Struct):
    """Where multimodal items stand in the token ids; their ids are the same whatever the item is."""

    mm_hashes: dict[str, list[str | None]] | None = None
    mm_placeholders: dict[str, list[Range]] | None = None


class VllmGenerate(Fields):
    token_ids: msgspec.Raw = NONE
    features: Features | None = None
    sampling_params: Sampling | None = None


class SglangGenerate(Fields):
    input_ids: msgspec.Raw = NONE
    text: msgspec.Raw = NONE
    extra_key: msgspec.Raw = NONE
    sampling_params: msgspec.Raw = NONE


_VLLM = msgspec.json.Decoder(VllmGenerate)
_SGLANG = msgspec.json.Decoder(SglangGenerate)
_SAMPLING = msgspec.json.Decoder(Sampling)
_STRING: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)


def parse_vllm(head: RequestHead, body: Body, truncated: bool) -> Request:
    fields = decode_body(_VLLM, head, body, truncated)
    prompts: tuple[Prompt, ...] = ()
    if is_set(fields.token_ids):
        prompts = prompts_of(fields.token_ids, "token_ids")
        if fields.features is not None and len(prompts) == 1:
            _mark_items(prompts[0], fields.features)
    elif not truncated:
        raise missing("token_ids")
    sampling = fields.sampling_params
    asked = limit("sampling_params.max_tokens", sampling.max_tokens) if sampling else None
    return request_of(head, Api.VLLM, body, fields, prompts, truncated, max_output_tokens=asked)


def parse_sglang(head: RequestHead, body: Body, truncated: bool) -> Request:
    fields = decode_body(_SGLANG, head, body, truncated)
    prompts: tuple[Prompt, ...] = ()
    if is_set(fields.input_ids):
        prompts = prompts_of(fields.input_ids, "input_ids")
    elif is_set(fields.text):
        prompts = prompts_of(fields.text, "text")
    elif not truncated:
        raise missing("input_ids")
    asked = None
    if opening(fields.sampling_params) == b"{":  # a list of them for a list of prompts
        sampling = decode(_SAMPLING, memoryview(fields.sampling_params), at="sampling_params")
        asked = limit("sampling_params.max_new_tokens", sampling.max_new_tokens)
    request = request_of(
        head, Api.SGLANG, body, fields, prompts, truncated, model_needed=False, max_output_tokens=asked
    )
    if opening(fields.extra_key) == b'"':
        request.cache_salt = decode(_STRING, memoryview(fields.extra_key), at="extra_key")
    request.model_span = None  # the engine knows no other model than its own
    return request


def _mark_items(prompt: Prompt, features: Features) -> None:
    """Write each item's hash over its placeholder ids, so that different pictures share no prefix."""
    if prompt.tokens is None:
        return
    for kind, ranges in (features.mm_placeholders or {}).items():
        hashes = (features.mm_hashes or {}).get(kind, [])
        for digest, at in zip(hashes, ranges, strict=False):
            if digest is not None and at.offset >= 0 and at.length > 0:
                mark = xxh64_intdigest(digest.encode()) & 0xFFFFFFFF
                prompt.tokens[at.offset : at.offset + at.length] = mark


def vllmhttp_parser() -> Parser:
    return Parser("vllmhttp-parser", {"inference/v1/generate": parse_vllm})


def sglanghttp_parser() -> Parser:
    return Parser("sglanghttp-parser", {"/generate": parse_sglang})
