"""Pool gauges out of a snapshot and a ledger."""

from __future__ import annotations

import statistics

import numpy as np

from epp.domain.snapshot import NEVER, Floats, Ints, Snapshot, empty_snapshot
from epp.telemetry.metrics import Metrics
from tests.builders import endpoint, snapshot
from tests.unit.telemetry.pages import Page, page


class Source:
    def __init__(self, first: Snapshot) -> None:
        self.snapshot = first


class Inflight:
    """Slot n has n requests, 10 n prompt tokens and 100 n tokens to come."""

    def requests(self, slots: Ints) -> Floats:
        return slots.astype(np.float64)

    def prefill_tokens(self, slots: Ints) -> Floats:
        return slots.astype(np.float64) * 10

    def decode_tokens(self, slots: Ints) -> Floats:
        return slots.astype(np.float64) * 100


def read(source: Snapshot, now: float = 100.0) -> Page:
    metrics = Metrics()
    metrics.watch_pool("pool", Source(source), Inflight(), lambda: now)
    return page(metrics)


def test_means_and_deviations_are_rounded_and_of_the_sample() -> None:
    waiting, kv = [1.0, 2.0, 7.0], [0.111, 0.5, 0.9]
    said = read(snapshot(3, waiting=waiting, kv_used=kv, running=[3, 3, 3]))
    assert said.value("llm_d_epp_average_queue_size", name="pool") == round(statistics.mean(waiting), 2)
    assert said.value("inference_pool_average_queue_size", name="pool") == round(statistics.mean(waiting), 2)
    assert said.value("llm_d_epp_std_dev_queue_size") == round(statistics.stdev(waiting), 2)
    assert said.value("llm_d_epp_average_kv_cache_utilization") == 0.5
    assert said.value("llm_d_epp_std_dev_kv_cache_utilization") == round(statistics.stdev(kv), 2)
    assert said.value("llm_d_epp_std_dev_running_requests") == 0
    assert said.value("inference_pool_ready_pods") == 3


def test_means_leave_out_old_metrics() -> None:
    pool = snapshot(3, waiting=[2, 100, 4], scraped_at=[99.0, 97.9, NEVER])
    said = read(pool)
    assert said.value("llm_d_epp_average_queue_size") == 2
    assert said.value("llm_d_epp_std_dev_queue_size") == 0
    assert said.value("llm_d_epp_ready_endpoints") == 3


def test_endpoints_by_what_is_known_of_them() -> None:
    pool = snapshot(
        4, scraped_at=[99.9, 99.85, 98.0, NEVER], available=[True, False, True, True], stale_after_s=0.2
    )
    said = read(pool)
    states = ("fresh", "stale", "unscraped", "avoided")
    assert [said.value("epp_endpoints", state=state) for state in states] == [2, 1, 1, 1]
    assert said.value("epp_metrics_age_seconds") == 0.15


def test_an_empty_pool_is_all_zeros() -> None:
    said = read(empty_snapshot())
    assert said.value("llm_d_epp_average_queue_size") == 0
    assert said.value("llm_d_epp_ready_endpoints") == 0
    assert said.values("llm_d_epp_per_endpoint_queue_size") == []
    assert said.values("epp_metrics_age_seconds") == []


def test_each_endpoint_and_what_we_have_there() -> None:
    said = read(snapshot(3, waiting=[5, 0, 9]))
    assert said.value("llm_d_epp_per_endpoint_queue_size", model_server_endpoint="pod-2") == 9
    assert said.value("inference_pool_per_pod_queue_size", model_server_pod="pod-0") == 5
    assert said.value("llm_d_epp_inflight_requests", endpoint_name="pod-2", namespace="default") == 2
    assert said.value("llm_d_epp_inflight_tokens", endpoint_name="pod-2") == 220


def test_one_name_in_two_namespaces_is_one_series() -> None:
    pool = [endpoint(0, name="a", namespace="x"), endpoint(1, name="a", namespace="y")]
    said = read(snapshot(endpoints=pool, waiting=[3, 4]))
    assert said.value("llm_d_epp_per_endpoint_queue_size", model_server_endpoint="a") == 7
    assert said.values("llm_d_epp_inflight_requests", endpoint_name="a") == [0, 1]


def test_the_next_scrape_sees_the_next_snapshot() -> None:
    metrics, source = Metrics(), Source(snapshot(2))
    metrics.watch_pool("pool", source, Inflight(), lambda: 100.0)
    assert page(metrics).value("llm_d_epp_ready_endpoints") == 2
    source.snapshot = snapshot(5)
    assert page(metrics).value("llm_d_epp_ready_endpoints") == 5
