"""The metrics of the queues, counted by hand and read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from epp.telemetry.flow import FlowMetrics, Share
from epp.telemetry.metrics import Limits, Metrics
from epp.telemetry.series import OTHER
from tests.unit.telemetry.pages import Page, page

NEW = "llm_d_epp_flow_control_"
OLD = "inference_extension_flow_control_"


class Shown:
    """A QueuesView and a SaturationView."""

    def __init__(self, *, evicts: bool = True, stages: Mapping[str, float] | None = None) -> None:
        self.evicts = evicts
        self.stages = {"prefill": 0.25, "decode": 1.5} if stages is None else stages
        self.looks_at_metrics = True

    def bands(self) -> Iterable[tuple[int, Share]]:
        return [(5, Share(0.5, 0.125)), (-1, Share(1.0, 0.75))]

    def all(self) -> Share:
        return Share(0.25, 0.0)

    def reclaim(self) -> tuple[float, float] | None:
        return (0.3, 0.1) if self.evicts else None

    def by_stage(self) -> Mapping[str, float]:
        return self.stages

    def stale(self) -> int | None:
        return 3 if self.looks_at_metrics else None


class Queues:
    def __init__(self, limits: Limits | None = None, **shown: Any) -> None:
        self.now = 100.0
        self.metrics = Metrics(limits=limits)
        self.shown = Shown(**shown)
        self.flow: FlowMetrics = self.metrics.flow_control("pool", self.shown, lambda: self.now)
        self.metrics.watch_saturation("pool", "utilization-detector", self.shown)

    def read(self) -> Page:
        return page(self.metrics)


@pytest.mark.parametrize("prefix", [NEW, OLD])
def test_who_waits_and_what_became_of_it(prefix: str) -> None:
    queues = Queues()
    meter = queues.flow.meter("m", "t", "team", 5)
    meter.waits(700)
    meter.waits(300)
    labels = {
        "fairness_id": "team", "priority": "5", "inference_pool": "pool", "model_name": "m",
        "target_model_name": "t",
    }  # fmt: skip
    read = queues.read()
    assert read.labels(prefix + "queue_size") == [labels]
    assert read.value(prefix + "queue_size") == 2
    assert read.value(prefix + "queue_bytes") == 1000
    meter.leaves(700)
    meter.ended("Dispatched", 0.3, 0.00015)
    meter.leaves(300)
    meter.ended("EvictedTTL", 60.0, 0.00015)
    read = queues.read()
    assert read.value(prefix + "queue_size") == 0
    assert read.value(prefix + "queue_bytes") == 0
    waited = prefix + "request_queue_duration_seconds"
    assert read.labels(waited + "_count") == [
        {**labels, "outcome": "Dispatched"}, {**labels, "outcome": "EvictedTTL"},
    ]  # fmt: skip
    assert read.value(waited + "_bucket", outcome="Dispatched", le="0.25") == 0
    assert read.value(waited + "_bucket", outcome="Dispatched", le="0.5") == 1
    assert read.value(waited + "_sum", outcome="EvictedTTL") == 60
    took = prefix + "request_enqueue_duration_seconds"
    assert read.value(took + "_bucket", outcome="Dispatched", le="0.0002") == 1
    assert [set(each) for each in read.labels(took + "_count")] == [
        {"fairness_id", "priority", "outcome"}
    ] * 2


def test_models_are_told_apart_where_there_is_a_label_for_them_and_added_up_elsewhere() -> None:
    queues = Queues()
    for model in ("a", "b"):
        queues.flow.meter(model, model, "team", 0).ended("Dispatched", 0.0, 0.0)
    read = queues.read()
    assert read.values(NEW + "request_queue_duration_seconds_count") == [1, 1]
    assert read.values(NEW + "request_enqueue_duration_seconds_count") == [2]
    assert read.labels(NEW + "requests_total") == [
        {"outcome": "Dispatched", "priority": "0", "inference_pool": "pool"}
    ]
    assert read.value(NEW + "requests_total") == 2
    assert read.values(NEW + "queue_size") == []  # nothing had to wait


def test_gauges_are_what_is_when_they_are_read() -> None:
    queues = Queues()
    read = queues.read()
    stages = {each["stage"] for each in read.labels(NEW + "pool_saturation")}
    assert stages == {"prefill", "decode", "effective"}
    for prefix in (NEW, OLD):
        assert read.value(prefix + "pool_saturation", stage="effective", inference_pool="pool") == 1.5
    assert read.value(NEW + "stale_endpoints", detector="utilization-detector") == 3
    assert read.value(NEW + "capacity_utilization_requests", priority="-1", inference_pool="pool") == 1
    assert read.value(NEW + "capacity_utilization_bytes", priority="5") == 0.125
    assert read.value(NEW + "global_capacity_utilization_requests", inference_pool="pool") == 0.25
    assert read.value(NEW + "global_capacity_utilization_bytes") == 0
    assert read.value(NEW + "reclaim_target", inference_pool="pool") == 0.3
    assert read.value(NEW + "pending_reclaim", inference_pool="pool") == 0.1
    queues.shown.stages = {}
    queues.shown.looks_at_metrics = False
    read = queues.read()
    assert read.values(NEW + "pool_saturation") == [1.0]
    assert read.values(NEW + "stale_endpoints") == []


def test_runs_of_the_queues_are_timed() -> None:
    queues = Queues()
    assert queues.read().value(NEW + "dispatch_cycle_duration_seconds_count") == 0
    queues.flow.ran(0.00015)
    read = queues.read()
    assert read.value(OLD + "dispatch_cycle_duration_seconds_bucket", le="0.0001") == 0
    assert read.value(NEW + "dispatch_cycle_duration_seconds_bucket", le="0.0002") == 1


def test_every_abort_ends_one_way() -> None:
    queues = Queues()
    flow = queues.flow
    for seq in range(4):
        flow.revoked(seq, 5, queues.now)
    flow.gone(0, queues.now + 0.2)
    flow.gone(1, queues.now + 10.0)
    queues.now += 10.5
    read = queues.read()
    assert read.value(NEW + "revocations_issued_total", priority="5", inference_pool="pool") == 4
    assert read.value(NEW + "revocations_total", outcome="confirmed", inference_pool="pool") == 1
    assert read.value(NEW + "revocations_total", outcome="timed_out") == 3
    for seq in range(5):
        flow.gone(seq, queues.now)
    read = queues.read()
    assert sum(read.values(NEW + "revocations_total")) == 4
    assert read.value(NEW + "revocation_confirmation_seconds_bucket", le="0.25") == 1
    assert read.value(NEW + "revocation_confirmation_seconds_bucket", le="0.1") == 0


def test_without_eviction_nothing_is_said_of_it() -> None:
    queues = Queues(evicts=False)
    read = queues.read()
    for name in ("revocations_total", "reclaim_target", "pending_reclaim"):
        assert read.values(NEW + name) == []
    assert read.values(NEW + "revocation_confirmation_seconds_count") == []


def test_without_queues_there_is_the_saturation_alone() -> None:
    metrics = Metrics()
    metrics.watch_saturation("pool", "d", Shown())
    names = {sample.name for sample in page(metrics).samples if "flow_control" in sample.name}
    assert names == {NEW + "pool_saturation", OLD + "pool_saturation", NEW + "stale_endpoints"}
    assert not any("flow_control" in sample.name for sample in page(Metrics()).samples)


def test_made_up_ids_and_models_fill_no_memory() -> None:
    queues = Queues(Limits(names=5, flows=10, meters=20))
    for i in range(500):
        meter = queues.flow.meter(f"model-{i}", "t", f"team-{i}", i % 3)
        meter.waits(1)
        meter.ended("Dispatched", 0.1, 0.1)
    read = queues.read()
    labels = read.labels(NEW + "queue_size")
    assert len({each["fairness_id"] for each in labels}) == 11
    assert len({each["model_name"] for each in labels}) == 5  # the target took a place, too
    assert len(labels) <= 41
    assert sum(read.values(NEW + "queue_size")) == 500
    assert sum(read.values(NEW + "requests_total")) == 500
    assert queues.flow.meter("model-499", "t", "team-499", 1).key[0] == OTHER


def test_a_request_leaves_where_it_was_counted_whatever_is_pinned_meanwhile() -> None:
    queues = Queues(Limits(names=5, flows=0))
    meter = queues.flow.meter("m", "m", "team", 0)
    meter.waits(10)
    queues.metrics.pin_flows(["team"])
    assert queues.flow.meter("m", "m", "team", 0) is not meter
    meter.leaves(10)
    assert queues.read().values(NEW + "queue_size") == [0]
