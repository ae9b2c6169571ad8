"""Metric names of each engine, several series of one name, lies, and the grammar of metric specs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.datalayer.engines import (
    ENGINE_LABEL,
    ENGINES,
    LEGACY_ENGINE_LABEL,
    Engine,
    MetricSpec,
    Reader,
    engine_of,
    parse_spec,
)
from epp.datalayer.load import Load

BODIES = {
    "vllm": """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 8.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="27000"} 1.0
""",
    "sglang": """\
sglang:num_running_reqs{model_name="m"} 8
sglang:num_queue_reqs{model_name="m"} 3
sglang:token_usage{model_name="m"} 0.25
sglang:cache_config_info{page_size="16",num_pages="27000"} 1
""",
    "trtllm-serve": """\
trtllm_num_requests_running 8
trtllm_num_requests_waiting 3
trtllm_kv_cache_utilization 0.25
trtllm_kv_cache_tokens_per_block 16
trtllm_kv_cache_max_blocks 27000
""",
    "triton-tensorrt-llm": """\
nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="m",request_type="context",version="1"} 100
nv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 8
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m"} 0.25
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="m"} 16
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m"} 27000
""",
}


def read(body: str, engine: str | Engine = "vllm") -> Load:
    return Reader(ENGINES[engine] if isinstance(engine, str) else engine).read(body.encode())


@pytest.mark.parametrize("name", BODIES)
def test_each_engine_by_its_own_names(name: str) -> None:
    load = read(BODIES[name], name)
    assert (load.waiting, load.running, load.kv_used) == (3.0, 8.0, 0.25)
    assert (load.block_size, load.num_blocks) == (16, 27000)
    assert load.lies == load.missing == ()
    assert load.fresh


def test_triton_without_a_cache() -> None:
    load = read("nv_inference_pending_request_count 3\nnv_inference_exec_count 123456789\n", "triton")
    assert (load.waiting, load.running, load.kv_used) == (3.0, 123456789.0, None)
    assert load.fresh


def test_the_older_vllm_name_of_the_cache_share() -> None:
    old = BODIES["vllm"].replace("kv_cache_usage_perc", "gpu_cache_usage_perc")
    assert read(old).kv_used == 0.25


def test_ranks_behind_one_port_are_summed_and_shares_averaged() -> None:
    load = read(
        'vllm:num_requests_waiting{engine="0"} 3\nvllm:num_requests_waiting{engine="1"} 4\n'
        'vllm:num_requests_running{engine="0"} 1\nvllm:num_requests_running{engine="1"} 2\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.2\nvllm:kv_cache_usage_perc{engine="1"} 0.4\n'
        'vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="100"} 1\n'
        'vllm:cache_config_info{block_size="32",engine="1",num_gpu_blocks="150"} 1\n'
    )
    assert (load.waiting, load.running) == (7.0, 3.0)
    assert load.kv_used == pytest.approx(0.3)
    assert (load.block_size, load.num_blocks) == (32, 250)


def test_of_one_series_the_newest_timestamp_counts_and_the_first_without() -> None:
    assert read("vllm:num_requests_waiting 1 100\nvllm:num_requests_waiting 2 300\n"
                "vllm:num_requests_waiting 3 200\n").waiting == 2.0  # fmt: skip
    assert read("vllm:num_requests_waiting 1\nvllm:num_requests_waiting 2\n").waiting == 1.0


def test_lora_comes_from_the_series_with_the_largest_value() -> None:
    load = read(
        BODIES["vllm"]
        + 'vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1.7e9\n'
        'vllm:lora_requests_info{max_lora="8",running_lora_adapters="a, b,,",'
        'waiting_lora_adapters="c"} 1.8e9\n'
        'vllm:lora_requests_info{max_lora="2",running_lora_adapters="x",waiting_lora_adapters="y"} NaN\n'
    )
    assert (load.lora_max, load.lora_running, load.lora_waiting) == (8, {"a", "b"}, {"c"})


def test_without_a_lora_metric_nothing_is_missing() -> None:
    load = read(BODIES["vllm"])
    assert load.lora_running is None
    assert load.missing == ()


def test_adapters_that_appear_later_are_found() -> None:
    reader = Reader(ENGINES["vllm"])
    assert reader.read(BODIES["vllm"].encode()).lora_max is None
    body = BODIES["vllm"] + 'vllm:lora_requests_info{max_lora="4",running_lora_adapters="a"} 1.7e9\n'
    assert [reader.read(body.encode()).lora_max for _ in range(12)][-2:] == [4, 4]


def test_what_is_missing_is_named_and_the_rest_read() -> None:
    load = read("vllm:num_requests_waiting 2\n")
    assert load.missing == ("running", "kv_used", "cache_info")
    assert load.waiting == 2.0
    assert load.fresh
    assert not read("").fresh
    assert not read("<html>not metrics</html>").fresh


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "-Inf", "1e30", "soon"])
def test_values_that_cannot_be_true_are_lies(value: str) -> None:
    load = read(BODIES["vllm"].replace("} 3.0", f"}} {value}"))
    assert load.lies == ("waiting",)
    assert load.waiting is None
    assert load.running == 8.0
    assert not load.fresh


def test_a_share_above_one_by_rounding_is_full_and_beyond_a_lie() -> None:
    assert read(BODIES["vllm"].replace("0.25", "1.02")).kv_used == 1.0
    assert read(BODIES["vllm"].replace("0.25", "25")).lies == ("kv_used",)


def test_one_lying_rank_spoils_the_sum() -> None:
    load = read('vllm:num_requests_waiting{e="0"} 3\nvllm:num_requests_waiting{e="1"} NaN\n')
    assert load.waiting is None
    assert load.lies == ("waiting",)


def test_blocks_that_are_not_known_yet_are_left_out() -> None:
    load = read(BODIES["vllm"].replace('"27000"', '"None"'))
    assert (load.block_size, load.num_blocks) == (16, None)
    assert load.lies == ()


def test_an_engine_of_ones_own() -> None:
    engine = Engine(
        name="own",
        waiting=(parse_spec('queue{kind="all"}'),),
        running=(parse_spec("batch"),),
        cache_info=parse_spec("cache"),
        block_size_label="bs",
        num_blocks_label="n",
    )
    load = read('queue{kind="some"} 9\nqueue{kind="all"} 4\nbatch 2\ncache{bs="64",n="10"} 1\n', engine)
    assert (load.waiting, load.running, load.block_size, load.num_blocks) == (4.0, 2.0, 64, 10)
    assert load.missing == ()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(BODIES["vllm"].splitlines()),
            st.text(alphabet='0123456789.-+einfNaN {}"=,', max_size=12),
        ),
        max_size=12,
    )
)
def test_no_body_makes_a_value_out_of_range(lines: list[tuple[str, str]]) -> None:
    body = "\n".join(line.rsplit(" ", 1)[0] + " " + value for line, value in lines)
    load = read(body)
    for value, limit in ((load.waiting, 1e9), (load.running, 1e9), (load.kv_used, 1.0)):
        assert value is None or (math.isfinite(value) and 0.0 <= value <= limit)


@pytest.mark.parametrize(
    ("labels", "engine"),
    [
        ({}, "vllm"),
        ({ENGINE_LABEL: "sglang"}, "sglang"),
        ({LEGACY_ENGINE_LABEL: "triton"}, "triton"),
        ({ENGINE_LABEL: "sglang", LEGACY_ENGINE_LABEL: "triton"}, "sglang"),
        ({ENGINE_LABEL: "no-such-engine"}, "vllm"),
    ],
)
def test_labels_choose_the_engine(labels: dict[str, str], engine: str) -> None:
    assert engine_of(labels).name == engine


def test_another_label_and_another_default() -> None:
    assert engine_of({"kind": "sglang"}, label="kind", default="triton").name == "sglang"
    assert engine_of({LEGACY_ENGINE_LABEL: "sglang"}, label="kind", default="triton").name == "triton"


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a", MetricSpec(b"a")),
        (" vllm:x_y ", MetricSpec(b"vllm:x_y")),
        ("a{}", MetricSpec(b"a")),
        ("a{b=c}", MetricSpec(b"a", (("b", "c"),))),
        ('a{b="c d", e=f}', MetricSpec(b"a", (("b", "c d"), ("e", "f")))),
        ('a{b=""}', MetricSpec(b"a", (("b", ""),))),
    ],
)
def test_specs(text: str, spec: MetricSpec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize("text", ["", "a{", "a{b}", "1a", "a b", "a{b=c}}", "a{=c}", 'a{b="c}'])
def test_specs_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("vllm", "vllm:time_to_first_token_seconds"),
        ("sglang", "sglang:time_to_first_token_seconds"),
        ("trtllm-serve", "trtllm_time_to_first_token_seconds"),
    ],
)
def test_first_tokens_are_counted_over_all_ranks(name: str, metric: str) -> None:
    lines = [
        f'{metric}_bucket{{rank="{rank}",le="+Inf"}} 7\n{metric}_count{{rank="{rank}"}} 7\n'
        f'{metric}_sum{{rank="{rank}"}} 1.5\n'
        for rank in (0, 1)
    ]
    body = "".join(sorted("".join(lines).splitlines(keepends=True))).encode()
    assert Reader(ENGINES[name]).first_tokens(body) == (14.0, 3.0)


@pytest.mark.parametrize("body", [b"", b"vllm:time_to_first_token_seconds_count NaN\n"])
def test_first_tokens_that_are_not_told(body: bytes) -> None:
    assert Reader(ENGINES["vllm"]).first_tokens(body) is None
    assert Reader(ENGINES["triton"]).first_tokens(body) is None
