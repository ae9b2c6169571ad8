from __future__ import annotations

import pytest

from epp.domain.errors import Reason, Refused
from epp.domain.request import Api
from epp.parsing.parser import Parser
from epp.parsing.select import PARSERS, Parsers, default_parsers, request_path
from tests import builders
from tests.unit.parsing.bodies import SAMPLES, encoded, parse


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({":path": "/v1/responses?x=1", "x-original-path": "/a"}, "/v1/responses"),
        ({"x-original-path": "/a?b", "x-forwarded-path": "/c"}, "/a"),
        ({":path": "", "x-forwarded-path": "/c"}, "/c"),
        ({}, "/v1/completions"),
    ],
)
def test_path_comes_from_the_first_header_that_is_set(headers: dict[str, str], path: str) -> None:
    assert request_path(headers) == path


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/chat/completions", Api.CHAT),
        ("/prefix/v1/chat/completions", Api.CHAT),
        ("/v1/chat/completions/render", Api.CHAT),
        ("/v1/completions", Api.COMPLETIONS),
        ("/v1/completions/render", Api.COMPLETIONS),
        ("/v1/responses", Api.RESPONSES),
        ("/v1/conversations", Api.CONVERSATIONS),
        ("/v1/embeddings", Api.EMBEDDINGS),
        ("/pooling", Api.EMBEDDINGS),
        ("/v1/images/generations", Api.IMAGES),
        ("/v2/rerank", Api.RERANK),
        ("/v1/score", Api.RERANK),
        ("/v1/messages", Api.ANTHROPIC),
        ("/v1/messages/count_tokens", Api.ANTHROPIC),
        ("/inference/v1/generate", Api.VLLM),
        ("/generate", Api.SGLANG),
        ("/v1/audio/speech", Api.AUDIO),
        ("/tokenize", Api.OPAQUE),
    ],
)
def test_longest_suffix_selects(path: str, api: Api) -> None:
    body = next((sample for known, sample in SAMPLES.items() if path.endswith(known)), None)
    body = body or {"model": "m", "messages": [], "prompt": "", "query": ""}
    assert parse(path, body).api is api


def test_config_types_are_the_references() -> None:
    assert set(PARSERS) == {
        "openai-parser", "anthropic-parser", "vllmhttp-parser", "sglanghttp-parser", "vllmgrpc-parser",
        "passthrough-parser",
    }  # fmt: skip
    assert all(build().type_name == name for name, build in PARSERS.items())
    assert [parser.type_name for parser in default_parsers()] == [
        "openai-parser", "anthropic-parser", "vllmhttp-parser", "passthrough-parser",
    ]  # fmt: skip


def test_path_without_parser_is_400() -> None:
    only = Parsers([PARSERS["anthropic-parser"]()])
    for _ in range(2):
        with pytest.raises(Refused, match="/v1/completions") as caught:
            only.parse(builders.head("/v1/completions"), b"{}")
        assert caught.value.reason is Reason.UNSUPPORTED_PATH


def test_parsers_after_the_fallback_are_ignored_and_types_count_once() -> None:
    body = encoded(SAMPLES["/v1/messages"])
    late = Parsers([PARSERS["passthrough-parser"](), PARSERS["anthropic-parser"]()])
    assert late.parse(builders.head("/v1/messages"), body).api is Api.OPAQUE
    again = Parser("anthropic-parser", {"/other": late.fallback})  # type: ignore[dict-item]
    twice = Parsers([PARSERS["anthropic-parser"](), again])
    with pytest.raises(Refused):
        twice.parse(builders.head("/other"), b"")


def test_other_grpc_calls_go_anywhere_unless_passthrough_takes_them() -> None:
    path = "/vllm.grpc.engine.VllmEngine/HealthCheck"
    alone = Parsers([PARSERS["vllmgrpc-parser"]()])
    request = alone.parse(builders.head(path), b"\0\0\0\0\0")
    assert (request.api, request.skip_response) == (Api.OPAQUE, True)
    both = Parsers([PARSERS["vllmgrpc-parser"](), PARSERS["passthrough-parser"]()])
    assert not both.parse(builders.head(path), b"").skip_response


def test_remembered_paths_are_bounded() -> None:
    parsers = Parsers(default_parsers())
    for i in range(2000):
        assert parsers.parse(builders.head(f"/x/{i}"), b"?").api is Api.OPAQUE
    assert (
        parsers.parse(builders.head("/y/v1/messages"), encoded(SAMPLES["/v1/messages"])).api is Api.ANTHROPIC
    )


@pytest.mark.parametrize(
    ("method", "path", "has_body", "api", "response"),
    [
        ("GET", "/v1/models", False, Api.OPAQUE, ""),
        ("GET", "/v1/models", True, Api.OPAQUE, ""),
        ("POST", "/v1/chat/completions", False, Api.OPAQUE, ""),
        ("GET", "/v1/responses/resp_1", False, Api.RESPONSES, "resp_1"),
        ("DELETE", "/v1/responses/resp_1", False, Api.RESPONSES, "resp_1"),
        ("GET", "/v1/responses/resp_1/input_items", False, Api.RESPONSES, "resp_1"),
        ("POST", "/v1/responses/resp_1/cancel", True, Api.RESPONSES, "resp_1"),
        ("POST", "/v1/responses/resp_1/cancel", False, Api.RESPONSES, "resp_1"),
        ("GET", "/v1/responses", False, Api.OPAQUE, ""),
        ("POST", "/v1/responses/compact", False, Api.OPAQUE, ""),
    ],
)
def test_requests_without_body(method: str, path: str, has_body: bool, api: Api, response: str) -> None:
    request = parse(path, b"", method=method, has_body=has_body)
    assert (request.api, request.previous_response_id, request.model) == (api, response, "")
    assert request.prompts == ()


def test_passthrough_believes_the_model_header_of_the_gateway() -> None:
    assert parse("/x", b"\xff\x00", headers={"x-gateway-model-name": "m"}).model == "m"
    assert parse("/x", b"\xff\x00").model == ""
