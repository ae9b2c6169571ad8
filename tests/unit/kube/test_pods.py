"""Which endpoints a pod is: readiness, addresses, ranks, and what its annotations say of its ports."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.endpoint import EndpointSpec
from epp.domain.pool import PoolSpec
from epp.kube.pods import (
    ACTIVE_PORTS,
    LEGACY_ACTIVE_PORTS,
    MAX_LABELS,
    METRICS_PORT,
    endpoints,
    mistakes,
    read_pod,
    trim,
)
from tests.unit.kube import objects

ONE = PoolSpec("prod", "chat", "app=chat", (8000,))
FOUR = PoolSpec("prod", "chat", "app=chat", (8000, 8001, 8002, 8003))


def found(raw: dict[str, Any], pool: PoolSpec = ONE) -> list[EndpointSpec]:
    return list(endpoints(read_pod(raw), pool))


def ports(raw: dict[str, Any], pool: PoolSpec = FOUR) -> dict[str, tuple[int, int | None]]:
    return {one.name: (one.port, one.metrics_port) for one in found(raw, pool)}


def test_one_endpoint_with_the_pods_labels() -> None:
    labels = {"app": "chat", "llm-d.ai/role": "decode"}
    (one,) = found(objects.pod("a", "10.0.0.7", labels=labels))
    assert one == EndpointSpec("a-rank-0", "10.0.0.7", 8000, "prod", labels)


def test_each_target_port_is_an_endpoint() -> None:
    assert ports(objects.pod("a")) == {f"a-rank-{rank}": (8000 + rank, None) for rank in range(4)}


@pytest.mark.parametrize(
    "raw",
    [
        objects.pod("a", ready=False),
        objects.pod("a", deletionTimestamp="2026-01-01T00:00:00Z"),
        objects.pod("a", phase="Succeeded"),
        objects.pod("a", phase="Failed"),
        objects.pod("a", ip=""),
        objects.pod("a", ip="not-an-ip"),
        {},
        {"metadata": None, "status": {"conditions": "x", "podIPs": 3}},
    ],
)
def test_what_is_no_endpoint(raw: dict[str, Any]) -> None:
    assert found(raw) == []


def test_the_first_address_of_a_dual_stack_pod_counts() -> None:
    raw = objects.pod("a")
    raw["status"]["podIPs"] = [{"ip": "fd00::1"}, {"ip": "10.0.0.1"}]
    assert [one.address for one in found(raw)] == ["fd00::1"]
    del raw["status"]["podIPs"]
    assert [one.address for one in found(raw)] == ["10.0.0.1"]


@pytest.mark.parametrize("name", [ACTIVE_PORTS, LEGACY_ACTIVE_PORTS])
def test_active_ports(name: str) -> None:
    """A rank keeps its name when others are not active; ports that are no target ports mean nothing."""
    raw = objects.pod("a", annotations={name: "8001, 8003,9999"})
    assert ports(raw) == {"a-rank-1": (8001, None), "a-rank-3": (8003, None)}
    assert ports(objects.pod("a", annotations={name: ""})) == {}


def test_the_new_name_of_the_annotation_wins() -> None:
    raw = objects.pod("a", annotations={ACTIVE_PORTS: "8001", LEGACY_ACTIVE_PORTS: "8002"})
    assert list(ports(raw)) == ["a-rank-1"]


@pytest.mark.parametrize("text", ["eight", "8000;8001", "8000,", "0", "70000", "-1", "8000 8001"])
def test_active_ports_that_are_no_list_are_ignored_and_said(text: str) -> None:
    raw = objects.pod("a", annotations={ACTIVE_PORTS: text})
    assert len(ports(raw)) == 4
    (said,) = mistakes(read_pod(raw), FOUR)
    assert f"{ACTIVE_PORTS}: '{text}' is no list of ports" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9400", [9400] * 4), ("9400,9401, 9402,9403", [9400, 9401, 9402, 9403])],
)
def test_metrics_port_of_all_ranks_or_by_rank(text: str, expected: list[int]) -> None:
    raw = objects.pod("a", annotations={METRICS_PORT: text})
    assert [metrics for _, metrics in ports(raw).values()] == expected
    assert list(mistakes(read_pod(raw), FOUR)) == []


def test_metrics_ports_go_by_rank_where_not_every_port_is_active() -> None:
    raw = objects.pod("a", annotations={METRICS_PORT: "9400,9401,9402,9403", ACTIVE_PORTS: "8002"})
    assert ports(raw) == {"a-rank-2": (8002, 9402)}


@pytest.mark.parametrize("text", ["", "x", "9400,9401", "0", "1,2,3,4,5"])
def test_a_metrics_port_that_fits_no_ranks_is_ignored_and_said(text: str) -> None:
    raw = objects.pod("a", annotations={METRICS_PORT: text})
    assert {metrics for _, metrics in ports(raw).values()} == {None}
    (said,) = mistakes(read_pod(raw), FOUR)
    assert said == (
        f"{METRICS_PORT}: '{text}' is ignored: metrics are read at the serving port; "
        "write one port, or 4 with commas between, one for each target port"
    )


def test_two_pods_of_one_host_differ_by_their_ports() -> None:
    pods = [
        objects.pod(name, "192.168.0.1", annotations={ACTIVE_PORTS: port})
        for name, port in (("a", "8000"), ("b", "8001"))
    ]
    assert [(one.address, one.port) for raw in pods for one in found(raw, FOUR)] == [
        ("192.168.0.1", 8000),
        ("192.168.0.1", 8001),
    ]


def test_labels_have_a_limit() -> None:
    labels = {f"l{number:04}": "x" for number in range(1000)}
    pod = read_pod(objects.pod("a", labels=labels))
    assert pod.labels == labels  # selectors are matched with all of them
    (one,) = found(objects.pod("a", labels=labels))
    assert list(one.labels) == sorted(labels)[:MAX_LABELS]


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("Ready"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "metadata",
                    "status",
                    "annotations",
                    "labels",
                    "conditions",
                    "type",
                    "podIPs",
                    "podIP",
                    "ip",
                    ACTIVE_PORTS,
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["metadata", "status", "spec"]), json))
def test_any_object_is_read_and_trimming_takes_nothing_that_counts(raw: dict[str, Any]) -> None:
    pod = read_pod(raw)
    assert read_pod(trim(raw)) == pod
    endpoints(pod, FOUR)
    list(mistakes(pod, FOUR))


def test_trimming_a_usual_pod() -> None:
    raw = objects.pod("a", annotations={ACTIVE_PORTS: "8000", "other": "x" * 1000}, managedFields=[{"f": {}}])
    trimmed = trim(raw)
    assert read_pod(trimmed) == read_pod(raw)
    assert "spec" not in trimmed
    assert set(trimmed["metadata"]["annotations"]) == {ACTIVE_PORTS}
    assert "managedFields" not in trimmed["metadata"]
