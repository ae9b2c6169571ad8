"""Checks that need no Envoy and no cluster: values in, findings out."""

from __future__ import annotations

import base64
import json
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stack import ROOT
from epp.datalayer.engines import ENGINES
from epp.doctor.clocks import check_clocks, check_token, expiry
from epp.doctor.endpoints import detect, judge
from epp.doctor.files import check_config, read_endpoints
from epp.doctor.finding import Finding, Level, merged, ok, warning
from epp.doctor.picker import Address, parse_address
from epp.doctor.web import skew

BODIES = {
    "vllm": b"vllm:num_requests_waiting 0\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.5\n"
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1\n',
    "sglang": b"sglang:num_queue_reqs 0\nsglang:num_running_reqs 1\nsglang:token_usage 0.5\n"
    b'sglang:cache_config_info{page_size="1",num_pages="100"} 1\n',
    "trtllm-serve": b"trtllm_num_requests_waiting 0\ntrtllm_num_requests_running 1\n"
    b"trtllm_kv_cache_utilization 0.5\ntrtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 9\n",
    "triton-tensorrt-llm": b'nv_trt_llm_request_metrics{request_type="waiting"} 0\n'
    b'nv_trt_llm_request_metrics{request_type="scheduled"} 0\n'
    b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"} 0.1\n'
    b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per"} 64\n'
    b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"} 9\n',
    "triton": b"nv_inference_pending_request_count 0\nnv_inference_exec_count 7\n",
}


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_each_engine_is_known_by_its_metrics(name: str) -> None:
    assert detect(BODIES[name]) is ENGINES[name]
    assert judge("endpoint a", ENGINES[name], BODIES[name]) == ok("endpoint a", f"{name}'s metrics")


@pytest.mark.parametrize("name", sorted(set(ENGINES) - {"vllm"}))
def test_an_engine_that_is_read_as_another_is_told_by_its_name(name: str) -> None:
    finding = judge("endpoint a", ENGINES["vllm"], BODIES[name])
    assert (finding.level, finding.mend) == (Level.ERROR, f"label it llm-d.ai/engine-type: {name}")


def test_metrics_of_nobody() -> None:
    finding = judge("endpoint a", ENGINES["vllm"], b"python_info 1\n")
    assert finding.level is Level.ERROR
    assert "no engine that is known" in finding.found


def test_missing_and_impossible_series_are_named() -> None:
    body = b"vllm:num_requests_waiting 0\nvllm:num_requests_running 1\n"
    finding = judge("endpoint a", ENGINES["vllm"], body)
    assert finding.level is Level.WARNING
    assert "how full the KV cache is" in finding.found
    finding = judge("endpoint a", ENGINES["vllm"], BODIES["vllm"].replace(b"running 1", b"running -1"))
    assert (finding.level, "running cannot be true" in finding.found) == (Level.WARNING, True)


@given(st.binary(max_size=200))
def test_any_body_is_judged(body: bytes) -> None:
    assert judge("endpoint a", ENGINES["vllm"], body).level in (Level.ERROR, Level.WARNING)


def test_clocks() -> None:
    assert check_clocks({}) == []
    assert check_clocks({"a": 1.0, "b": -4.9}) == [ok("clocks", "a, b within 5 s of ours")]
    assert [(one.level, one.found) for one in check_clocks({"a": 1.0, "b": -30.0, "c": 90.0})] == [
        (Level.WARNING, "30 s behind ours"),
        (Level.ERROR, "90 s ahead of ours"),
    ]


def test_the_skew_of_a_date() -> None:
    assert skew(formatdate(1000, usegmt=True), 999.5, 1001.5) == pytest.approx(0.0)
    assert skew(formatdate(1100, usegmt=True), 1000.5, 1000.5) == pytest.approx(100.0)
    assert skew("", 0, 0) is None
    assert skew("yesterday", 0, 0) is None


def token(claims: object) -> bytes:
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return b"e30." + middle + b".sig\n"


def test_a_tokens_end() -> None:
    assert check_token(token({"exp": 1000}), 900.0) == [ok("service account token", "valid for 100 s more")]
    (over,) = check_token(token({"exp": 1000}), 1060.0)
    assert (over.level, over.found) == (Level.ERROR, "it expired 60 s ago")
    assert check_token(token({}), 0.0) == []


@given(st.binary(max_size=60) | st.builds(token, st.integers() | st.lists(st.text(max_size=3))))
def test_what_is_no_token_has_no_end(data: bytes) -> None:
    assert expiry(data) is None


def test_findings_that_say_the_same_are_one() -> None:
    found = [warning(f"endpoint {name}", "x", "y") for name in "abcdefg"] + [ok("endpoint h", "z")]
    assert merged(found) == [
        Finding(Level.WARNING, "endpoint a, b, c, d, e and 2 more", "x", "y"),
        ok("endpoint h", "z"),
    ]
    assert merged([ok("listener", "x"), ok("cluster epp", "x")]) == [ok("listener, cluster epp", "x")]


def test_addresses() -> None:
    assert parse_address("epp.models.svc:9002") == Address("epp.models.svc", 9002)
    assert str(parse_address("[::1]:9002")) == "[::1]:9002"
    for wrong in ("", "epp", ":9002", "epp:", "epp:0", "epp:65536", "epp:http", "epp:\u0662"):
        with pytest.raises(ValueError, match="is no address"):
            parse_address(wrong)


def test_files_that_are_wrong(tmp_path: Path) -> None:
    config, endpoints = tmp_path / "config.yaml", tmp_path / "endpoints.yaml"
    config.write_text("plugins:\n- type: no-such-scorer\n")
    findings, _ = check_config(config)
    assert {one.level for one in findings} == {Level.ERROR}
    assert any("no-such-scorer" in one.found for one in findings)
    endpoints.write_text("endpoints: [{name: a, address: 10.0.0.1}]")
    (finding,), specs = read_endpoints(endpoints)
    assert (finding.level, specs) == (Level.ERROR, ())
    endpoints.write_text("endpoints: []")
    (finding,), specs = read_endpoints(endpoints)
    assert (finding.level, specs) == (Level.ERROR, ())


def test_the_configuration_says_how_metrics_are_read() -> None:
    findings, reading = check_config(ROOT / "deploy" / "config" / "sglang.yaml")
    assert Level.ERROR not in {one.level for one in findings}, findings
    assert (reading.source.port, reading.choice.default) == (9100, "sglang")
    assert "tgi" in reading.choice.engines
