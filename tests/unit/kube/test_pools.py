"""InferencePool of both groups: what is read, and that every complaint names the field and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.problems import Report
from epp.domain.pool import LEGACY_POOL_GROUP, POOL_GROUP, AppProtocol, FailureMode, PoolSpec
from epp.kube import selectors
from epp.kube.pools import read_legacy_pool, read_pool
from tests.unit.kube import objects


def complaints(raw: dict[str, Any], read: Callable[..., PoolSpec | None] = read_pool) -> list[str]:
    report = Report("it")
    assert read(raw, report) is None
    return [str(problem).removeprefix("it: ") for problem in report.problems]


def good(raw: dict[str, Any], read: Callable[..., PoolSpec | None] = read_pool) -> tuple[PoolSpec, list[str]]:
    report = Report("it")
    spec = read(raw, report)
    assert spec is not None, report.problems
    return spec, [str(notice).removeprefix("it: ") for notice in report.notices]


def test_a_v1_pool() -> None:
    raw = objects.pool(
        labels={"tier": "gold", "app": "chat"},
        ports=(8000, 8001),
        appProtocol="kubernetes.io/h2c",
        endpointPickerRef={"name": "epp", "port": {"number": 9003}, "failureMode": "FailOpen", "group": ""},
    )
    raw["metadata"] |= {
        "labels": {"team": "a"},
        "annotations": {"x": "y", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }
    assert good(raw) == (
        PoolSpec(
            "prod",
            "chat",
            "app=chat,tier=gold",
            (8000, 8001),
            POOL_GROUP,
            AppProtocol.H2C,
            "epp",
            9003,
            FailureMode.OPEN,
            "uid-chat",
            {"team": "a"},
            {"x": "y"},
        ),
        [],
    )


def test_what_a_v1_pool_need_not_say() -> None:
    raw = objects.pool()
    del raw["spec"]["endpointPickerRef"]
    spec, notices = good(raw)
    assert (spec.app_protocol, spec.picker_service, spec.picker_port) == (AppProtocol.HTTP, "", 0)
    assert spec.failure_mode is FailureMode.CLOSE
    assert notices == []


def test_a_v1alpha2_pool() -> None:
    spec, notices = good(objects.legacy_pool(port=8200), read_legacy_pool)
    assert (spec.group, spec.selector, spec.target_ports) == (LEGACY_POOL_GROUP, "app=chat", (8200,))
    assert (spec.picker_service, spec.picker_port) == ("chat-epp", 9002)
    assert notices == []
    raw = objects.legacy_pool(extensionRef={"name": "e", "portNumber": 7, "failureMode": "FailOpen"})
    spec, _ = good(raw, read_legacy_pool)
    assert (spec.picker_service, spec.picker_port, spec.failure_mode) == ("e", 7, FailureMode.OPEN)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"selector": None}, "spec.selector: is required"),
        ({"selector": {}}, "spec.selector.matchLabels: is required"),
        ({"selector": {"matchLabels": {}}}, "spec.selector.matchLabels: is empty; write the labels"),
        ({"selector": {"matchLabels": {"a": 1}}}, "spec.selector.matchLabels.a: is no string"),
        ({"selector": {"matchLabels": {"-a": "b"}}}, "spec.selector.matchLabels: '-a' is no label key"),
        (
            {"selector": {"matchLabels": {f"l{n}": "" for n in range(65)}}},
            "spec.selector.matchLabels: has 65 labels; at most 64",
        ),
        (
            {"selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "x"}]}},
            "spec.selector.matchExpressions: an InferencePool selects by matchLabels only",
        ),
        ({"targetPorts": []}, "spec.targetPorts: expected 1 to 8 ports"),
        ({"targetPorts": [{"number": n} for n in range(1, 10)]}, "spec.targetPorts: has 9 ports; at most 8"),
        ({"targetPorts": [{"number": 0}]}, "spec.targetPorts[0].number: 0 is not a port; write a number"),
        ({"targetPorts": [8000]}, "spec.targetPorts[0]: expected a mapping, got 8000"),
        ({"targetPorts": [{"number": 1}, {"number": 1}]}, "spec.targetPorts[1].number: 1 stands twice"),
        ({"targetPorts": [{"number": True}]}, "spec.targetPorts[0].number: True is not a port"),
        ({"appProtocol": "h2c"}, "spec.appProtocol: 'h2c' is not 'http' or 'kubernetes.io/h2c'"),
        ({"appProtocol": ["http"]}, "spec.appProtocol: a list is not 'http'"),
    ],
)
def test_complaints(spec: dict[str, Any], words: str) -> None:
    said = complaints(objects.pool(**spec))
    assert words in said[0]


def test_every_mistake_is_said_at_once() -> None:
    assert len(complaints(objects.pool(selector=None, targetPorts=None, appProtocol="x"))) == 3
    assert complaints({"spec": 1})[0] == "spec: expected a mapping, got 1"


def test_complaints_of_v1alpha2() -> None:
    raw = objects.legacy_pool(selector={"matchLabels": {"a": "b"}}, targetPortNumber=None)
    assert complaints(raw, read_legacy_pool) == [
        "spec.selector.matchLabels: is no string; put it in quotes",
        "spec.targetPortNumber: nothing is not a port; write a number from 1 to 65535",
    ]


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (
            {"kind": "Deployment", "name": "x"},
            "spec.endpointPickerRef.kind: 'Deployment' is not a core Service",
        ),
        ({"name": ""}, "spec.endpointPickerRef.name: is empty"),
        ({"name": "x", "port": {"number": 0}}, "spec.endpointPickerRef.port.number: 0 is not a port"),
        (
            {"name": "x", "port": {"number": 9002}, "failureMode": "Open"},
            "spec.endpointPickerRef.failureMode: 'Open' is not 'FailOpen' or 'FailClose'",
        ),
    ],
)
def test_mistakes_about_the_picker_keep_no_pod_out(ref: dict[str, Any], words: str) -> None:
    spec, notices = good(objects.pool(endpointPickerRef=ref))
    assert spec.target_ports == (8000,)
    assert words in notices[0]


names = [
    "spec",
    "metadata",
    "selector",
    "matchLabels",
    "targetPorts",
    "number",
    "appProtocol",
    "name",
    "kind",
]
json = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9000) | st.text(max_size=5) | st.just("http"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*names, "endpointPickerRef", "extensionRef", "port", "targetPortNumber", "failureMode"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(st.sampled_from(["metadata", "spec"]), json),
    st.sampled_from([read_pool, read_legacy_pool]),
)
def test_any_object_is_a_pool_or_has_complaints(
    raw: dict[str, Any], read: Callable[..., PoolSpec | None]
) -> None:
    report = Report("it")
    spec = read(raw, report)
    assert (spec is None) == bool(report.problems)
    if spec is not None:
        assert spec.target_ports
        assert selectors.parse(spec.selector).pairs
