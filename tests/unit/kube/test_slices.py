"""EndpointSlices in place of pods: which endpoints count, and that one in several slices is one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.kube import selectors
from epp.kube.cluster import Cluster
from epp.kube.pods import Pod
from epp.kube.pools import POOLS
from epp.kube.resource import PODS
from epp.kube.selection import OnePool, PodsAlone, Selection, Source
from epp.kube.slices import SLICES, SliceWatcher, read_slice, trim_slice
from tests.fakes.informers import FakeCluster, NotedWarnings, NotingWorld
from tests.unit.kube import objects

LABELS = {"kubernetes.io/service-name": "vllm", "app": "chat"}


def endpoint(ip: str, pod: str = "", **conditions: bool | None) -> dict[str, Any]:
    ref = {"targetRef": {"kind": "Pod", "name": pod, "namespace": "prod"}} if pod else {}
    return {"addresses": [ip], "conditions": conditions, **ref}


def slice_of(name: str, *endpoints: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": objects.metadata(name, labels=LABELS, **metadata),
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"port": 8000}],
    }


def test_pods_and_servers_that_are_none() -> None:
    found = read_slice(slice_of("s", endpoint("10.0.0.1", "a"), endpoint("10.0.0.2"), endpoint("fd00::1")))
    assert {key: pod.ip for key, pod in found.items()} == {
        "prod/a": "10.0.0.1",
        "prod/s-10.0.0.2": "10.0.0.2",
        "prod/s-fd00--1": "fd00::1",
    }
    assert all(pod.labels == LABELS and pod.ready for pod in found.values())


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ({}, True),
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": None, "serving": None, "terminating": None}, True),
        ({"ready": False, "serving": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": True, "serving": False}, False),
        ({"ready": True, "serving": True, "terminating": True}, False),
    ],
)
def test_conditions(conditions: dict[str, bool | None], ready: bool) -> None:
    (pod,) = read_slice(slice_of("s", endpoint("10.0.0.1", "a", **conditions))).values()
    assert pod.ready is ready


def test_host_names_and_slices_that_go_are_no_place_to_send_requests_to() -> None:
    assert read_slice(slice_of("s", endpoint("server.example"), {"addresses": []})) == {}
    (pod,) = read_slice(slice_of("s", endpoint("10.0.0.1"), deletionTimestamp="now")).values()
    assert not pod.ready


class Sink:
    """A PodSink that keeps what it was told."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}

    def listed(self, pods: Mapping[str, Pod]) -> None:
        self.pods = dict(pods)

    def put(self, pod: Pod) -> None:
        self.pods[pod.key] = pod

    def gone(self, key: str) -> None:
        del self.pods[key]


slices = st.lists(
    st.builds(endpoint, st.sampled_from(["10.0.0.1", "fd00::1"]), st.sampled_from("ab"), ready=st.booleans()),
    max_size=2,
)


@given(st.lists(st.tuples(st.sampled_from("xyz"), slices | st.none()), max_size=20))
def test_after_any_history_as_if_listed_anew(history: list[tuple[str, list[dict[str, Any]] | None]]) -> None:
    sink, known = Sink(), {}
    watcher = SliceWatcher(sink)
    for name, endpoints in history:
        key = f"prod/{name}"
        if endpoints is not None:
            known[key] = slice_of(name, *endpoints)
            watcher.changed(key, known[key])
        elif known.pop(key, None) is not None:
            watcher.removed(key)
        fresh = Sink()
        SliceWatcher(fresh).replaced(known)
        assert sink.pods == fresh.pods


def test_one_that_is_ready_in_any_slice_counts_and_ipv4_first() -> None:
    sink = Sink()
    watcher = SliceWatcher(sink)
    watcher.changed("prod/x", slice_of("x", endpoint("fd00::1", "a", ready=True)))
    assert sink.pods["prod/a"].ip == "fd00::1"
    watcher.changed("prod/y", slice_of("y", endpoint("10.0.0.1", "a", ready=False)))
    assert sink.pods["prod/a"].ip == "fd00::1"
    watcher.changed("prod/y", slice_of("y", endpoint("10.0.0.1", "a", ready=True)))
    assert sink.pods["prod/a"].ip == "10.0.0.1"
    watcher.removed("prod/y")
    assert sink.pods["prod/a"].ip == "fd00::1"


WORDS = ["endpoints", "addresses", "conditions", "ready", "serving", "targetRef", "kind", "name", "labels"]
json = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5) | st.just("10.0.0.1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["metadata", "endpoints", "ports"]), json))
def test_any_object_is_read_and_trimming_takes_nothing_that_counts(raw: dict[str, Any]) -> None:
    assert read_slice(trim_slice(raw)) == read_slice(raw)


@pytest.mark.parametrize(
    "selection",
    [
        OnePool("prod", "chat", source=Source.SLICES),
        PodsAlone("prod", "chat", selectors.parse("app=chat"), (8000,), source=Source.SLICES),
    ],
)
async def test_a_cluster_reads_them_in_place_of_pods(selection: Selection) -> None:
    api, world = FakeCluster(), NotingWorld()
    api.put(POOLS, objects.pool())
    api.put(PODS, objects.pod("never"))
    api.put(SLICES, slice_of("s", endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b")))
    task = asyncio.create_task(Cluster(api.follow, selection, world, NotedWarnings(), added_s=0).run())
    try:
        for _ in range(8):
            await asyncio.sleep(0)
        assert api.of(PODS) == []
        view = world.views["prod/chat"]
        assert view.names == ["a-rank-0", "b-rank-0"]
        api.put(SLICES, slice_of("s", endpoint("10.0.0.1", "a", terminating=True), endpoint("10.0.0.2", "b")))
        for _ in range(8):
            await asyncio.sleep(0)
        assert view.names == ["b-rank-0"]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
