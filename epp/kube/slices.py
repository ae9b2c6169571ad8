"""EndpointSlices in place of pods: for who may not read pods, and for servers that are none.

The labels of a slice are those of its Service, so that is what selectors are matched with, and all that
endpoints get. What an EndpointSlice does not tell (labels and annotations of pods) is not there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from epp.kube.pods import Pod, PodSink, read_labels
from epp.kube.resource import Resource

SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
MAX_ENDPOINTS = 1000
"""Of one slice, as the API has it."""


class SliceWatcher:
    """A Watcher of EndpointSlices. What stands in several slices at once counts once."""

    def __init__(self, sink: PodSink) -> None:
        self._sink = sink
        self._slices: dict[str, dict[str, Pod]] = {}
        """By the slice's key and the pod's."""
        self._holders: dict[str, dict[str, None]] = {}
        """Slices by the pod that stands in them."""

    def replaced(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
        self._slices.clear()
        self._holders.clear()
        for key, raw in objects.items():
            self._put(key, read_slice(raw))
        self._sink.listed({pod: self._best(pod) for pod in self._holders})

    def changed(self, key: str, object: Mapping[str, Any]) -> None:
        for pod in self._put(key, read_slice(object)):
            self._tell(pod)

    def removed(self, key: str) -> None:
        for pod in self._put(key, {}):
            self._tell(pod)
        del self._slices[key]

    def _put(self, key: str, now: dict[str, Pod]) -> set[str]:
        """The pods that stand in it, or did."""
        before = self._slices.get(key, {})
        self._slices[key] = now
        for pod in before.keys() - now.keys():
            del self._holders[pod][key]
            if not self._holders[pod]:
                del self._holders[pod]
        for pod in now:
            self._holders.setdefault(pod, {})[key] = None
        return before.keys() | now.keys()

    def _tell(self, pod: str) -> None:
        if pod in self._holders:
            self._sink.put(self._best(pod))
        else:
            self._sink.gone(pod)

    def _best(self, pod: str) -> Pod:
        """Rather one that is ready; then rather IPv4, as dual-stack Services have slices of both families."""
        found = [self._slices[key][pod] for key in sorted(self._holders[pod])]
        return min(found, key=lambda one: (not one.ready, ":" in one.ip))


def trim_slice(raw: Mapping[str, Any]) -> dict[str, Any]:
    """With only what `read_slice` looks at."""
    metadata = _map(raw.get("metadata"))
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "deletionTimestamp")
    return {
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "endpoints": [
            {name: _map(one).get(name) for name in ("addresses", "conditions", "targetRef")}
            for one in _list(raw.get("endpoints"))[:MAX_ENDPOINTS]
        ],
    }


def read_slice(raw: Mapping[str, Any]) -> dict[str, Pod]:
    """Its endpoints as pods, by key. Where no pod is behind one, the slice and the address make the name."""
    metadata = _map(raw.get("metadata"))
    namespace, name = str(metadata.get("namespace", "")), str(metadata.get("name", ""))
    labels = read_labels(metadata.get("labels"))
    pods: dict[str, Pod] = {}
    for item in _list(raw.get("endpoints"))[:MAX_ENDPOINTS]:
        one = _map(item)
        ip = _ip(_list(one.get("addresses")))
        if not ip:
            continue  # a host name, or nothing: neither is a place to send requests to
        ref = _map(one.get("targetRef"))
        target = ref.get("name") if ref.get("kind") == "Pod" else None
        called = target if isinstance(target, str) and target else f"{name}-{ip.replace(':', '-')}"
        ready = not metadata.get("deletionTimestamp") and _ready(_map(one.get("conditions")))
        pod = Pod(namespace, called, labels, ip, ready)
        pods[pod.key] = pod
    return pods


def _ready(conditions: Mapping[str, Any]) -> bool:
    """What is not said counts as ready. Services that publish all pods say only by `serving` which serve."""
    ready = conditions.get("ready") is not False
    return ready and conditions.get("serving") is not False and conditions.get("terminating") is not True


def _ip(addresses: Sequence[Any]) -> str:
    """All of one endpoint's are the same server; consumers take the first."""
    try:
        return str(ipaddress.ip_address(str(addresses[0])))
    except (IndexError, ValueError):
        return ""


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
