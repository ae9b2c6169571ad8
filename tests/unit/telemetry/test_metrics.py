"""What the metrics page says after things have happened, read back by Prometheus' own parsers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.domain.errors import Reason, Refused
from epp.domain.views import Ending
from epp.telemetry.metrics import Limits, Metrics
from epp.telemetry.series import Cell
from epp.telemetry.table import TABLE, Kind
from tests.builders import endpoint, snapshot
from tests.unit.telemetry.pages import Page, joined, page
from tests.unit.telemetry.test_flow import Shown
from tests.unit.telemetry.test_pool import Inflight, Source

FEW = Limits(names=10, flows=10, meters=20, cells=30)


class Answers:
    """One cell a metric."""

    def answers(self) -> list[Cell]:
        return [(("true", "all"), 3)]

    def tokens(self) -> list[Cell]:
        return [(("input",), 700)]

    def modes(self) -> list[Cell]:
        return [(("auto", "always", "all"), 1)]


def busy() -> Metrics:
    """At least one cell in every family that is not the pool's."""
    metrics = Metrics(commit="abc", build_ref="v1", stream_metrics=True)
    for flow in ("f1", "f2"):
        meter = metrics.request("m", "t", flow, 3)
        meter.started(700)
        meter.itl.observe(0.03)
        meter.error("ModelServerError")
        meter.finished(
            200.0, streaming=True, ttft_s=150.0, response_bytes=9, input_tokens=5, output_tokens=11,
            cached_tokens=2,
        )  # fmt: skip
    metrics.watch_answers(Answers())
    metrics.connections(3, 2)
    metrics.watch_transport("native", lambda: metrics.handoffs([0, 2] + [0] * 11, 0.0002))
    metrics.scheduled(0.0003, "t", endpoint(1))
    metrics.scheduled(0.0004, "t", None)
    metrics.plugin_seconds("scorer", "queue-scorer", "q", 0.00005)
    metrics.plugin_fault("q")
    metrics.prefix_lookup("p", "prefix-cache-scorer", 0.55, 640)
    metrics.watch_prefix_index("p", "prefix-cache-scorer", lambda: 42)
    metrics.watch_prefix_index("p2", "prefix-cache-scorer", lambda: 8)
    metrics.rewritten("rule", "m", "t")
    metrics.poll_error("metrics-data-source")
    metrics.extract_error("metrics-data-source", "core-metrics-extractor")
    metrics.scrape_interval(0.25)
    metrics.ejected()
    metrics.stream_opened()
    metrics.stream_opened()
    metrics.stream_closed("OK", 0.7)
    metrics.protocol_violation("body-before-headers")
    metrics.config_notices(2)
    metrics.cluster(1, leading=True)
    metrics.configs.config_loaded("pool", 1, "text", 1e9)
    metrics.refused(Refused(Reason.SHED, "full"))
    metrics.ended(Ending.NATURAL)
    metrics.internal_error("director")
    metrics.request_processing.observe(0.001)
    metrics.answer_processing.observe(0.001)
    metrics.watch_saturation("pool", "utilization-detector", Shown())
    queues = metrics.flow_control("pool", Shown(), lambda: 100.0)
    waited = queues.meter("m", "t", "f1", 3)
    waited.waits(10)
    waited.ended("Dispatched", 0.1, 0.0001)
    queues.revoked(1, 3, 99.0)
    queues.gone(1, 99.5)
    queues.ran(0.0002)
    return metrics


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_family_of_the_table_can_be_read_back(openmetrics: bool) -> None:
    read = page(busy(), openmetrics=openmetrics)
    pool = {"average", "std", "ready", "per", "inflight", "endpoints", "metrics"}
    for metric in TABLE.values():
        if metric.name.removeprefix("llm_d_epp_").removeprefix("epp_").split("_")[0] in pool:
            continue
        for name in (metric.name, *(twin.name for twin in metric.twins)):
            family = read.families[name.removesuffix("_total") if metric.kind is Kind.COUNTER else name]
            assert family.type == metric.kind.value
            assert family.samples, name


def test_a_twin_says_what_replaces_it_and_sums_over_the_labels_it_lacks() -> None:
    read = page(busy())
    family = read.families["inference_objective_request"]
    assert "[Deprecated: Use llm_d_epp_request_total]" in family.documentation
    assert read.value("inference_objective_request_total", model_name="m", priority="3") == 2
    assert read.values("llm_d_epp_request_total", model_name="m") == [1, 1]
    assert read.value("inference_objective_request_duration_seconds_sum", model_name="m") == 400
    assert read.value("inference_objective_request_duration_seconds_bucket", le="180") == 0
    assert read.value("inference_objective_request_duration_seconds_bucket", le="240") == 2
    assert read.value("inference_extension_prefix_indexer_size") == 50
    assert read.labels("inference_objective_running_requests") == [{"model_name": "m"}]


def test_a_twin_may_have_other_buckets() -> None:
    read = page(busy())
    new = [labels["le"] for labels in read.labels("llm_d_epp_request_ttft_seconds_bucket")]
    assert new.count("120") == 2
    assert "180" not in new
    assert read.value("inference_objective_request_ttft_seconds_bucket", le="120") == 0
    assert read.value("inference_objective_request_ttft_seconds_bucket", le="180") == 2


def test_labels_are_renamed_for_the_twin() -> None:
    read = page(busy())
    (chosen,) = [v for v in read.labels("inference_extension_scheduler_attempts_total") if v["pod_name"]]
    assert chosen == {
        "status": "success", "target_model_name": "t", "pod_name": "pod-1", "namespace": "default",
        "port": "8000",
    }  # fmt: skip


def test_bounds_are_written_as_go_writes_them() -> None:
    text = joined(busy().render())
    assert 'llm_d_epp_request_size_bytes_bucket{model_name="m",target_model_name="t",fairness_id="f1"' in text
    assert ',le="1.048576e+06"} ' in text
    assert ',le="524288"} ' in text
    assert ',le="0.00205"} ' in text


def test_buckets_never_fall() -> None:
    read = page(busy())
    for name, family in read.families.items():
        if family.type == "histogram" and not family.samples[0].labels.keys() - {"le"}:
            counts = read.values(f"{name}_bucket")
            assert all(low <= high for low, high in pairwise(counts)), name
            assert counts[-1] == read.value(f"{name}_count")


def test_stream_metrics_are_hidden_unless_asked_for() -> None:
    metrics = Metrics()
    metrics.stream_opened()
    metrics.stream_closed("OK", 1.0)
    assert "extproc_stream" not in joined(metrics.render())
    assert page(busy()).value("llm_d_epp_extproc_streams_inflight") == 1


def test_a_meter_is_one_object_for_its_labels() -> None:
    metrics = Metrics()
    assert metrics.request("m", "t", "f", 0) is metrics.request("m", "t", "f", 0)
    assert metrics.request("m", "t", "f", 0) is not metrics.request("m", "t", "f", 1)


def test_an_answer_without_its_request_has_empty_labels() -> None:
    metrics = Metrics()
    metrics.request("", "", "", None).error("Internal")
    assert page(metrics).labels("llm_d_epp_request_error_total") == [
        {
            "model_name": "",
            "target_model_name": "",
            "fairness_id": "",
            "priority": "",
            "error_code": "Internal",
        }
    ]


def test_made_up_names_fill_no_memory() -> None:
    metrics = Metrics(limits=FEW)
    metrics.pin_models(["served"])
    for i in range(2 * FEW.meters + 50):
        metrics.request(f"made-up-{i}", "served", f"flow-{i}", 0).started(1)
    metrics.request("served", "served", "flow-0", 0).started(1)
    read = page(metrics)
    labels = read.labels("llm_d_epp_request_total")
    assert len(labels) <= 2 * FEW.meters + 1
    assert len({each["model_name"] for each in labels}) == FEW.names + 2
    assert sum(read.values("llm_d_epp_request_total")) == 2 * FEW.meters + 51
    assert sum(read.values("llm_d_epp_request_total", model_name="served")) == 1


def test_label_sets_of_one_metric_are_capped() -> None:
    metrics = Metrics(limits=FEW)
    stay = [endpoint(i) for i in range(FEW.cells + 5)]
    metrics.watch_pool("pool", Source(snapshot(endpoints=stay)), Inflight(), lambda: 100.0)
    for each in stay:
        metrics.scheduled(0.001, "m", each)
    read = Page(joined(metrics.render()))
    assert len(read.labels("llm_d_epp_scheduler_attempts_total")) == FEW.cells + 1
    assert read.value("llm_d_epp_scheduler_attempts_total", endpoint_name="other") == 5


def test_endpoints_that_are_gone_make_room() -> None:
    metrics = Metrics(limits=FEW)
    stay = [endpoint(0, name="stay-0"), endpoint(1, name="stay-1")]
    metrics.watch_pool("pool", Source(snapshot(endpoints=stay)), Inflight(), lambda: 100.0)
    metrics.scheduled(0.001, "m", stay[0])
    metrics.scheduled(0.001, "m", None)
    for i in range(FEW.cells - 2):
        metrics.scheduled(0.001, "m", endpoint(2, name=f"gone-{i}"))
    metrics.scheduled(0.001, "m", stay[1])
    read = page(metrics)
    names = [labels["endpoint_name"] for labels in read.labels("llm_d_epp_scheduler_attempts_total")]
    assert sorted(names) == ["", "stay-0", "stay-1"]


def test_counting_goes_on_while_a_page_is_written() -> None:
    metrics = Metrics()
    for i in range(100):
        metrics.request("m", "m", f"f{i}", 0).started(1)
        metrics.scheduled(0.001, "m", endpoint(0, name=f"pod-{i}"))
    pieces = []
    for n, piece in enumerate(metrics.render()):
        pieces.append(piece)
        metrics.request("m", "m", f"new{n}", 0).started(1)
        metrics.scheduled(0.001, "m", endpoint(0, name=f"new-{n}"))
        metrics.plugin_seconds("filter", "t", f"new-{n}", 0.1)
    assert len(pieces) > 10
    assert Page(joined(pieces)).value("inference_objective_request_total") >= 100


def test_pieces_are_short() -> None:
    metrics = Metrics()
    for i in range(200):
        metrics.request("m", "m", f"f{i}", 0).started(1)
    assert max(piece.count("\n") for piece in metrics.render()) < 400


@settings(max_examples=60)
@given(st.text(max_size=30))
def test_any_label_value_survives(name: str) -> None:
    metrics = Metrics()
    metrics.request(name, "t", "f", 0).started(1)
    text = joined(metrics.render()).encode("utf-8", "replace").decode()
    expected = name.encode("utf-8", "replace").decode()
    read = Page(text)
    assert read.value("llm_d_epp_request_total", model_name=expected) == 1


def test_process_metrics_are_there() -> None:
    assert page(Metrics()).value("process_resident_memory_bytes") > 1e6
