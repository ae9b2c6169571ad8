from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.errors import Reason
from epp.domain.request import Api
from epp.parsing.media import IMAGE_TOKENS
from epp.parsing.varints import uint32s
from tests.unit.parsing.bodies import MESSAGES, SAMPLES, parse, refusal, text, tokens

GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
EMBED = "/vllm.grpc.engine.VllmEngine/Embed"


def test_anthropic() -> None:
    request = parse(MESSAGES, SAMPLES[MESSAGES])
    assert (request.api, request.model, request.max_output_tokens) == (Api.ANTHROPIC, "base", 9)
    expected = b'[{"name": "f"}]\nsystem\nbe brief\nuser\nhi\nassistant\nhmf{"a": 1}\n\nuser\n42\n'
    assert text(request) == expected
    assert not request.skip_response
    assert parse("/v1/messages/count_tokens", SAMPLES["/v1/messages/count_tokens"]).skip_response


def test_anthropic_billing_block_does_not_spoil_the_prefix() -> None:
    def flat(billing: str) -> bytes:
        system = [{"type": "text", "text": billing}, {"type": "text", "text": "rules"}]
        return text(parse(MESSAGES, {"model": "m", "system": system, "messages": []}))

    assert flat("x-anthropic-billing-header: cch=1;") == flat("x-anthropic-billing-header: cch=2;")
    assert flat("other 1") != flat("other 2")


def test_anthropic_pictures_and_odd_results() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    turn = {"role": "user", "content": [image]}
    assert (
        len(text(parse(MESSAGES, {"model": "m", "messages": [turn]}))) == len("user\n\n") + 4 * IMAGE_TOKENS
    )
    odd = {"role": "user", "content": [{"type": "web_search_tool_result", "content": {"error_code": "x"}}]}
    assert text(parse(MESSAGES, {"model": "m", "messages": [odd]})) == b"user\n\n"


def test_vllm_generate() -> None:
    request = parse("/inference/v1/generate", SAMPLES["/inference/v1/generate"])
    assert (request.api, request.max_output_tokens, request.cache_salt) == (Api.VLLM, 4, "s")
    assert tokens(request) == [[5, 6, 7]]


def test_vllm_generate_tells_pictures_apart() -> None:
    def ids(digest: str | None) -> list[int]:
        features = {
            "mm_hashes": {"image": [digest]},
            "mm_placeholders": {"image": [{"offset": 1, "length": 2}]},
        }
        body = {"model": "m", "token_ids": [1, 9, 9, 2], "features": features}
        return tokens(parse("/inference/v1/generate", body))[0]

    one, two = ids("a"), ids("b")
    assert ids(None) == [1, 9, 9, 2]
    assert (one[0], one[3]) == (two[0], two[3]) == (1, 2)
    assert one[1] == one[2] != two[1] == two[2] != 9


@pytest.mark.parametrize(
    "at", [{"offset": -1, "length": 2}, {"offset": 9, "length": 9}, {"offset": 0, "length": -1}]
)
def test_vllm_generate_with_ranges_out_of_bounds(at: dict[str, int]) -> None:
    features = {"mm_hashes": {"image": ["a", "b"]}, "mm_placeholders": {"image": [at], "audio": [at]}}
    body = {"model": "m", "token_ids": [1, 2], "features": features}
    assert tokens(parse("/inference/v1/generate", body)) == [[1, 2]]


def test_sglang_generate() -> None:
    request = parse("/generate", SAMPLES["/generate"])
    assert (request.api, request.model, request.model_span) == (Api.SGLANG, "", None)
    assert (request.max_output_tokens, request.cache_salt, tokens(request)) == (4, "s", [[1, 2, 3]])
    batch = parse("/generate", {"text": ["a", "b"], "sampling_params": [{}, {}], "extra_key": ["x", "y"]})
    assert [prompt.text for prompt in batch.prompts] == [b"a", b"b"]
    assert (batch.cache_salt, batch.max_output_tokens) == ("", None)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def tokenized(ids: list[int], *, packed: bool = True) -> bytes:
    inner = field(2, b"".join(map(varint, ids))) if packed else b"".join(field(2, i) for i in ids)
    return field(2, field(1, b"original") + inner)


@pytest.mark.parametrize("packed", [True, False])
def test_grpc_token_ids(packed: bool) -> None:
    sampling = b"\x0d\0\0\x80\x3f" + field(3, 5) + field(8, 300)
    message = field(1, b"id") + tokenized([1, 300, 70_000], packed=packed) + field(4, sampling) + field(5, 1)
    request = parse(GENERATE, frame(message))
    assert (request.api, request.stream, request.max_output_tokens) == (Api.VLLM_GRPC, True, 300)
    assert tokens(request) == [[1, 300, 70_000]]
    assert tokens(parse(EMBED, frame(tokenized([4, 5])))) == [[4, 5]]


def test_grpc_text() -> None:
    request = parse(GENERATE, frame(field(3, b"hello")))
    assert (text(request), request.stream, request.model) == (b"hello", False, "")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\0\0\0", b"\1" + frame(field(3, b"x"))[1:], frame(field(3, b"x"))[:-1],
        frame(field(3, b"x")) + b"x",
        frame(b""), frame(b"\xff" * 20), frame(b"\x1a\xff"), frame(b"\x1a\x05ab"),
        frame(b"\x0b"), frame(b"\x09ab"),
        frame(field(2, field(2, b"\x80"))), frame(field(2, field(2, b"\x80" * 11 + b"\1"))), frame(b"\0\0"),
    ],
)  # fmt: skip
def test_grpc_payloads_that_are_refused(body: bytes) -> None:
    assert refusal(GENERATE, body).reason is Reason.MALFORMED
    assert parse(GENERATE, body, truncated=True).api is Api.VLLM_GRPC


@given(st.binary(max_size=40))
def test_grpc_any_bytes(message: bytes) -> None:
    parse(GENERATE, frame(message), truncated=True)
    parse(GENERATE, message, truncated=True)


@given(st.lists(st.integers(0, 2**35)))
def test_varints_equal_the_naive_ones(values: list[int]) -> None:
    found = uint32s(b"".join(map(varint, values)))
    assert found.dtype == np.uint32
    assert found.tolist() == [value & 0xFFFFFFFF for value in values]
