"""Many pools on one page: each under its label, what has none summed, and nothing left of one that went."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from epp.telemetry.metrics import Limits, Metrics
from epp.telemetry.series import OTHER, Cell
from epp.telemetry.table import TABLE
from tests.builders import endpoint, snapshot
from tests.unit.telemetry.pages import page
from tests.unit.telemetry.test_flow import Shown
from tests.unit.telemetry.test_pool import Inflight, Source

FLOW = "llm_d_epp_flow_control_"


class Answers:
    """So many answers were looked at."""

    def __init__(self, count: int) -> None:
        self.count = count

    def answers(self) -> Iterable[Cell]:
        return [(("true", "all"), self.count)]

    def tokens(self) -> Iterable[Cell]:
        return [(("input",), 10 * self.count)]

    def modes(self) -> Iterable[Cell]:
        return [(("auto", "always", "all"), 1)]


def watched(*names: str, metrics: Metrics | None = None) -> Metrics:
    """Pools of two endpoints each, with everything that is shown of a pool."""
    metrics = metrics or Metrics()
    for number, name in enumerate(names, 1):
        pool = [endpoint(0, name=f"{name}-a"), endpoint(1, name=f"{name}-b")]
        metrics.watch_pool(
            name, Source(snapshot(endpoints=pool, waiting=[number, number])), Inflight(), lambda: 100.0
        )
        metrics.watch_saturation(name, "utilization-detector", Shown())
        flow = metrics.flow_control(name, Shown(), lambda: 100.0)
        meter = flow.meter("m", "m", "team", 0)
        meter.waits(number)
        meter.ended("Dispatched", 0.1, 0.0)
        flow.ran(0.001)
        metrics.watch_answers(Answers(number), pool=name)
        metrics.watch_prefix_index("prefix", "prefix-cache-scorer", lambda: 7, pool=name)
        metrics.config_notices(number, pool=name)
        metrics.configs.config_loaded(name, 1, "text", 1e9)
    return metrics


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_family_stands_once_and_every_series_once(openmetrics: bool) -> None:
    text = "".join(watched("a", "b", "c").render(openmetrics))
    headers = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(headers) == len(set(headers))
    series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if line.startswith(("llm_d", "epp_"))]
    assert len(series) == len(set(series))


def test_series_carry_the_pool_where_there_is_a_label_for_it_and_are_summed_elsewhere() -> None:
    read = page(watched("x/a", "y/a"))
    assert read.value("llm_d_epp_average_queue_size", name="x/a") == 1
    assert read.value("inference_pool_average_queue_size", name="y/a") == 2
    assert read.values("epp_endpoints", state="avoided") == [0, 0]
    assert read.value(FLOW + "pool_saturation", stage="effective", inference_pool="y/a") == 1.5
    assert read.value(FLOW + "queue_bytes", inference_pool="y/a") == 2
    assert read.value(FLOW + "requests_total", inference_pool="x/a") == 1
    assert read.value(FLOW + "capacity_utilization_bytes", priority="5", inference_pool="x/a") == 0.125
    assert read.value(FLOW + "stale_endpoints", detector="utilization-detector") == 6
    assert read.value(FLOW + "request_enqueue_duration_seconds_count") == 2
    assert read.value(FLOW + "dispatch_cycle_duration_seconds_count") == 2
    assert read.value("epp_answers_total") == 3
    assert read.value("epp_estimated_tokens_total", kind="input") == 30
    assert read.value("epp_observation_mode") == 1
    assert read.value("llm_d_epp_prefix_indexer_size", plugin_name="prefix") == 14
    assert read.value("epp_config_notices") == 3


def test_a_pod_of_two_pools_is_one_series_where_the_pool_has_no_label() -> None:
    metrics = Metrics()
    for name in ("a", "b"):
        source = Source(snapshot(endpoints=[endpoint(1, name="pod")], waiting=[4]))
        metrics.watch_pool(name, source, Inflight(), lambda: 100.0)
    read = page(metrics)
    assert read.values("llm_d_epp_per_endpoint_queue_size", model_server_endpoint="pod") == [4, 4]
    assert read.value("llm_d_epp_inflight_requests", endpoint_name="pod") == 2


def test_nothing_is_left_of_a_pool_that_went_but_its_share_of_common_counts() -> None:
    metrics = watched("stays", "goes")
    metrics.unwatch_pool("goes")
    metrics.unwatch_pool("never-was")
    read = page(metrics)
    assert not any("goes" in value for sample in read.samples for value in sample.labels.values())
    assert read.value("epp_answers_total") == 3
    assert read.value("epp_estimated_tokens_total", kind="input") == 30
    assert read.value(FLOW + "dispatch_cycle_duration_seconds_count") == 2
    assert read.value(FLOW + "stale_endpoints") == 3
    assert read.value("llm_d_epp_prefix_indexer_size") == 7
    assert read.value("epp_config_notices") == 1
    metrics.unwatch_pool("stays")
    assert page(metrics).value("epp_answers_total") == 3


def test_models_of_a_pool_that_went_take_no_part_any_more() -> None:
    metrics = Metrics(limits=Limits(names=0, flows=0))
    metrics.pin_models(["base", "shared"], pool="a")
    metrics.pin_models(["shared"], pool="b")
    metrics.pin_flows(["team"], pool="a")
    metrics.pin_flows(["other-team"], pool="a")
    metrics.unwatch_pool("b")
    for model in ("base", "shared", "made-up"):
        metrics.request(model, model, "team", 0).started(1)
    labels = page(metrics).labels("llm_d_epp_request_total")
    assert {each["model_name"] for each in labels} == {"base", "shared", OTHER}
    assert {each["fairness_id"] for each in labels} == {"team"}
    metrics.unwatch_pool("a")
    assert metrics.request("base", "base", "team", 1).key == (OTHER, OTHER, OTHER, "1")


def test_after_a_reload_the_counts_go_on_with_the_queues_that_are_there_now() -> None:
    metrics = watched("a")
    flow = metrics.flow_control("a", Shown(evicts=False), lambda: 100.0)
    flow.meter("m", "m", "team", 0).ended("Dispatched", 0.1, 0.0)
    read = page(metrics)
    assert read.value(FLOW + "requests_total", inference_pool="a") == 2
    assert read.values(FLOW + "reclaim_target") == []
    metrics.unwatch_flow_control("a")
    metrics.unwatch_prefix_indexes("a")
    read = page(metrics)
    assert read.values(FLOW + "requests_total") == []
    assert read.values("llm_d_epp_prefix_indexer_size") == []
    assert read.value(FLOW + "pool_saturation", stage="effective") == 1.5


def test_answers_of_a_source_that_was_replaced_stay_counted() -> None:
    metrics, source = Metrics(), Answers(4)
    metrics.watch_answers(source, pool="a")
    metrics.watch_answers(source, pool="a")
    metrics.watch_answers(Answers(1), pool="a")
    assert page(metrics).value("epp_answers_total") == 5


def test_made_up_ids_fill_no_memory_in_many_pools_either() -> None:
    metrics = Metrics(limits=Limits(names=1000, flows=1000, meters=20, queues=50))
    for number in range(10):
        flow = metrics.flow_control(f"pool-{number}", Shown(), lambda: 100.0)
        for i in range(100):
            flow.meter("m", "m", f"team-{i}", i % 3).waits(1)
    labels = page(metrics).labels(FLOW + "queue_size")
    assert len(labels) <= 2 * 50 + 10
    assert len({each["inference_pool"] for each in labels}) == 10
    for number in range(9):
        metrics.unwatch_pool(f"pool-{number}")
    fresh = metrics.flow_control("fresh", Shown(), lambda: 100.0)
    assert fresh.meter("m", "m", "team-1", 0).key[0] == "team-1"


def test_gauges_of_many_pools_are_read_in_small_pieces() -> None:
    names = [f"pool-{i}" for i in range(100)]
    metrics = watched(*names)
    pieces = list(metrics.render())
    assert max(piece.count("\n") for piece in pieces) < 400
    assert pieces[:20].count("") == 20
    read = page(metrics)
    assert len(read.values("llm_d_epp_ready_endpoints")) == 100
    assert {name for name in TABLE if name.startswith(FLOW)} <= {
        sample.name.removesuffix("_count") for sample in read.samples
    } | {FLOW + "revocations_issued_total"}
