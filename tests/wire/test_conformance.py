"""What the conformance suite of the Gateway API Inference Extension expects of a picker, over real gRPC.

docs/conformance.md says which of these tests shows what.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from epp.domain.endpoint import EndpointSpec
from tests.house import House, chat
from tests.wire import gateway as gw
from tests.wire.transports import TRANSPORTS, serving

ENDPOINT = "x-gateway-destination-endpoint"
SELECTION = "test-epp-endpoint-selection"
SERVED = "x-conformance-test-served-endpoint"
CONFIG = """
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: header-based-testing-filter
- type: random-picker
- type: destination-endpoint-served-verifier
schedulingProfiles:
- name: default
  plugins: [{pluginRef: header-based-testing-filter}, {pluginRef: random-picker}]
"""
PODS = ("10.0.0.1", "10.0.0.2", "fd00::3")
PORTS = (8000, 8001)


def house(config: str = CONFIG, pods: Sequence[str] = PODS) -> House:
    """Pods with two target ports each: every port is an endpoint."""
    made = House(0, config=config)
    made.store.set_endpoints(
        [
            EndpointSpec(f"pod-{i}-rank-{rank}", ip, port)
            for i, ip in enumerate(pods)
            for rank, port in enumerate(PORTS)
        ],
        made.now,
    )
    return made


def authority(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


ALL = {authority(ip, port) for ip in PODS for port in PORTS}


async def picked(call: Any, headers: dict[str, str], **more: Any) -> pb.ProcessingResponse:
    """The first answer to a whole request."""
    wanted = {":method": "POST", ":path": "/v1/chat/completions", **headers}
    await call.write(gw.request_headers(wanted, **more))
    await call.write(gw.request_body(chat(), end=True))
    answer: pb.ProcessingResponse = await call.read()
    return answer


def named(answer: pb.ProcessingResponse) -> str:
    """The endpoint, which header and metadata must name alike."""
    told = answer.dynamic_metadata["envoy.lb"][ENDPOINT]
    assert gw.set_headers(answer)[ENDPOINT] == told
    assert answer.request_headers.response.clear_route_cache
    return str(told)


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize(
    ("selection", "allowed"),
    [
        ("10.0.0.2:8001", {"10.0.0.2:8001"}),
        ("10.0.0.1", {"10.0.0.1:8000", "10.0.0.1:8001"}),
        ("[fd00::3]:8000", {"[fd00::3]:8000"}),
        ("fd00::3", {"[fd00::3]:8000", "[fd00::3]:8001"}),
        ("10.0.0.9:8000,10.0.0.1:8000", {"10.0.0.1:8000"}),
    ],
)
async def test_the_header_of_the_suite_names_the_endpoint(
    kind: str, selection: str, allowed: set[str]
) -> None:
    async with serving(kind, house().director) as (served, _), gw.channel(served.port) as channel:
        got = set()
        for _ in range(12):
            call = gw.stream(channel)
            got.add(named(await picked(call, {SELECTION: selection})))
            call.cancel()
        assert got <= allowed
        assert got == allowed or len(allowed) > 1


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_the_header_of_the_suite_may_name_nobody(kind: str) -> None:
    async with serving(kind, house().director) as (served, _), gw.channel(served.port) as channel:
        answer = await picked(gw.stream(channel), {SELECTION: "10.0.0.9:8000"})
        assert answer.immediate_response.status.code == 429


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize(
    ("subset", "allowed"),
    [
        (["10.0.0.2:8001"], {"10.0.0.2:8001"}),
        (["10.0.0.1"], {"10.0.0.1:8000", "10.0.0.1:8001"}),
        (["10.0.0.9", "[fd00::3]:8001"], {"[fd00::3]:8001"}),
        (None, ALL),
    ],
)
async def test_only_endpoints_of_the_subset_are_picked(
    kind: str, subset: list[str] | None, allowed: set[str]
) -> None:
    plain = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: random-picker}]\n"
    async with serving(kind, house(plain).director) as (served, _), gw.channel(served.port) as channel:
        for _ in range(12):
            call = gw.stream(channel)
            assert named(await picked(call, {}, subset=subset)) in allowed
            call.cancel()


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("subset", [["10.9.9.9:8000"], []])
async def test_a_subset_without_any_endpoint_is_503(kind: str, subset: list[str]) -> None:
    async with serving(kind, house().director) as (served, _), gw.channel(served.port) as channel:
        answer = await picked(gw.stream(channel), {SELECTION: "10.0.0.1"}, subset=subset)
        assert answer.immediate_response.status.code == 503


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_pool_without_endpoints_is_503(kind: str) -> None:
    async with serving(kind, house(pods=()).director) as (served, _), gw.channel(served.port) as channel:
        answer = await picked(gw.stream(channel), {SELECTION: "10.0.0.1"})
        assert answer.immediate_response.status.code == 503


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize(
    ("served_endpoint", "told"),
    [
        ("10.0.0.1:8001", "10.0.0.1:8001"),
        ("10.0.0.2:8000", "10.0.0.2:8000"),
        ("", "fail: missing destination endpoint served metadata"),
    ],
)
async def test_clients_are_told_who_served(kind: str, served_endpoint: str, told: str) -> None:
    async with serving(kind, house().director) as (served, _), gw.channel(served.port) as channel:
        call = gw.stream(channel)
        await picked(call, {SELECTION: "10.0.0.1:8000"})
        assert (await call.read()).request_body.response.body_mutation.streamed_response.end_of_stream
        await call.write(gw.answer_headers(served=served_endpoint))
        assert gw.set_headers(await call.read())[SERVED] == told
