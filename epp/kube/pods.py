"""Pods -> the endpoints that they are in a pool. Pure: JSON in, frozen values out.

A pod counts while it is ready, has an address, and is not on its way out. Each target port of the pool is an
endpoint of its own, `<pod>-rank-<place of the port>`.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from epp.domain.endpoint import EndpointSpec
from epp.domain.pool import PoolSpec

ACTIVE_PORTS = "llm-d.ai/active-ports"
LEGACY_ACTIVE_PORTS = "inference.networking.k8s.io/active-ports"
METRICS_PORT = "llm-d.ai/metrics-port"
MAX_LABELS = 128
"""Handed on, in the order of their names; selectors are matched with all."""
_OVER = ("Succeeded", "Failed")
_PORT = re.compile(r"[0-9]{1,5}")


class Pod(Struct, frozen=True, gc=False):
    """What routing needs of a pod, and nothing of the rest. Equal where nothing changed that matters."""

    namespace: str
    name: str
    labels: dict[str, str]
    ip: str
    """Empty while it has none that can be used."""
    ready: bool
    """Also: not being deleted, not over."""
    active_ports: str | None = None
    metrics_port: str | None = None
    uid: str = ""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class PodSink(Protocol):
    """Who is told of pods, by `namespace/name`."""

    def listed(self, pods: Mapping[str, Pod]) -> None:
        """All that there are."""

    def put(self, pod: Pod) -> None: ...

    def gone(self, key: str) -> None: ...


class PodWatcher:
    """A Watcher of pods."""

    def __init__(self, sink: PodSink) -> None:
        self._sink = sink

    def replaced(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
        self._sink.listed({key: read_pod(raw) for key, raw in objects.items()})

    def changed(self, key: str, object: Mapping[str, Any]) -> None:
        self._sink.put(read_pod(object))

    def removed(self, key: str) -> None:
        self._sink.gone(key)


def trim(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The object with only what `read_pod` looks at, for whoever keeps objects: a tenth of a pod's size."""
    metadata, status = _map(raw.get("metadata")), _map(raw.get("status"))
    annotations = _map(metadata.get("annotations"))
    kept = {name: metadata[name] for name in _METADATA if name in metadata}
    kept["annotations"] = {name: annotations[name] for name in _ANNOTATIONS if name in annotations}
    ready = [one for one in _list(status.get("conditions")) if _map(one).get("type") == "Ready"]
    return {
        "metadata": kept,
        "status": {
            **{name: status[name] for name in ("phase", "podIP", "podIPs") if name in status},
            "conditions": [{"type": "Ready", "status": one.get("status")} for one in ready],
        },
    }


_METADATA = ("name", "namespace", "uid", "resourceVersion", "labels", "deletionTimestamp")
_ANNOTATIONS = (ACTIVE_PORTS, LEGACY_ACTIVE_PORTS, METRICS_PORT)


def read_pod(raw: Mapping[str, Any]) -> Pod:
    """Whatever a pod lacks makes it not ready; nothing makes it wrong."""
    metadata, status = _map(raw.get("metadata")), _map(raw.get("status"))
    annotations = _map(metadata.get("annotations"))
    ready = (
        any(
            _map(one).get("type") == "Ready" and _map(one).get("status") == "True"
            for one in _list(status.get("conditions"))
        )
        and status.get("phase") not in _OVER
        and not metadata.get("deletionTimestamp")
    )
    active = annotations.get(ACTIVE_PORTS)
    return Pod(
        namespace=_word(metadata.get("namespace")),
        name=_text(metadata.get("name")),
        labels=read_labels(metadata.get("labels")),
        ip=_ip(status),
        ready=ready,
        active_ports=_annotation(annotations.get(LEGACY_ACTIVE_PORTS) if active is None else active),
        metrics_port=_annotation(annotations.get(METRICS_PORT)),
        uid=_text(metadata.get("uid")),
    )


def endpoints(pod: Pod, pool: PoolSpec) -> tuple[EndpointSpec, ...]:
    """Those of a pod that the pool's selector matches."""
    if not pod.ready or not pod.ip:
        return ()
    active = _active(pod, pool.target_ports)
    metrics = _metrics(pod, pool.target_ports)
    labels = pod.labels
    if len(labels) > MAX_LABELS:
        labels = dict(sorted(labels.items())[:MAX_LABELS])
    return tuple(
        EndpointSpec(
            name=f"{pod.name}-rank-{rank}",
            address=pod.ip,
            port=port,
            namespace=pod.namespace,
            labels=labels,
            metrics_port=metrics[rank],
        )
        for rank, port in enumerate(pool.target_ports)
        if port in active
    )


def mistakes(pod: Pod, pool: PoolSpec) -> Iterator[str]:
    """What is wrong with its annotations, which count as not there then."""
    if pod.active_ports is not None and _ports(pod.active_ports) is None:
        yield (
            f"{ACTIVE_PORTS}: '{pod.active_ports}' is no list of ports and is ignored: every target port "
            f"counts as active; write those that are, like '{pool.target_ports[0]}', or nothing for none"
        )
    if pod.metrics_port is not None:
        ports, ranks = _ports(pod.metrics_port), len(pool.target_ports)
        if not ports or len(ports) not in (1, ranks):
            several = f", or {ranks} with commas between, one for each target port" if ranks > 1 else ""
            yield (
                f"{METRICS_PORT}: '{pod.metrics_port}' is ignored: metrics are read at the serving port; "
                f"write one port{several}"
            )


def _active(pod: Pod, target_ports: Sequence[int]) -> Sequence[int]:
    """Ports of the annotation that are no target ports have no meaning; an empty one says: none."""
    if pod.active_ports is None:
        return target_ports
    ports = _ports(pod.active_ports)
    return target_ports if ports is None else ports


def _metrics(pod: Pod, target_ports: Sequence[int]) -> Sequence[int | None]:
    """By rank; None is the serving port. One port alone is that of every rank."""
    ports = _ports(pod.metrics_port) if pod.metrics_port is not None else None
    if not ports or len(ports) not in (1, len(target_ports)):
        return (None,) * len(target_ports)
    return ports * len(target_ports) if len(ports) == 1 else ports


def _ports(text: str) -> tuple[int, ...] | None:
    """`8000, 8001`; None where a word is no port."""
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(_PORT.fullmatch(word) and 1 <= int(word) <= 65535 for word in words):
        return None
    return tuple(int(word) for word in words)


def _ip(status: Mapping[str, Any]) -> str:
    """The first of `podIPs` is the pod's own in its first family; it is `podIP` too."""
    ips = [_map(one).get("ip") for one in _list(status.get("podIPs"))] or [status.get("podIP")]
    try:
        return str(ipaddress.ip_address(_text(ips[0])))
    except ValueError:
        return ""


def read_labels(value: Any) -> dict[str, str]:
    return {_word(key): _word(text) for key, text in _map(value).items() if isinstance(text, str)}


def _annotation(value: Any) -> str | None:
    """Cut: no list of ports is longer."""
    return value[:256] if isinstance(value, str) else None


def _word(value: Any) -> str:
    """Thousands of pods share the words of their labels."""
    return sys.intern(value) if isinstance(value, str) else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
