"""InferencePool objects of both API groups -> PoolSpec, or what is wrong with them. Pure.

Fields that no rule here knows are passed by, but for those that would change which pods are meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from epp.config.problems import Path, Report, choices, nearest
from epp.domain.pool import (
    LEGACY_POOL_GROUP,
    MAX_TARGET_PORTS,
    PICKER_PORT,
    POOL_GROUP,
    AppProtocol,
    FailureMode,
    PoolSpec,
)
from epp.kube import selectors
from epp.kube.resource import Resource

POOLS = Resource(POOL_GROUP, "v1", "inferencepools", "InferencePool")
LEGACY_POOLS = Resource(LEGACY_POOL_GROUP, "v1alpha2", "inferencepools", "InferencePool")
MAX_SELECTOR_LABELS = 64
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def read_pool(raw: Mapping[str, Any], report: Report) -> PoolSpec | None:
    """A v1 object. None where the report has new problems; notices are for what works all the same."""
    spec = _mapping(raw.get("spec"), ("spec",), report)
    at: Path = ("spec", "selector")
    selector = _mapping(spec.get("selector"), at, report)
    if selector.get("matchExpressions"):
        words = "an InferencePool selects by matchLabels only; write these labels there, or drop this field"
        report.error((*at, "matchExpressions"), words)
    labels = _selector(selector.get("matchLabels"), (*at, "matchLabels"), report)
    ports = _target_ports(spec.get("targetPorts"), report)
    protocol = _app_protocol(spec.get("appProtocol"), report)
    ref = spec.get("endpointPickerRef")
    port = _plain(ref).get("port")
    picker = _picker(ref, "endpointPickerRef", _plain(port).get("number"), ("port", "number"), report)
    return _pool(raw, POOL_GROUP, labels, ports, protocol, picker, report)


def read_legacy_pool(raw: Mapping[str, Any], report: Report) -> PoolSpec | None:
    """A v1alpha2 object: a flat selector, one port, `extensionRef`."""
    spec = _mapping(raw.get("spec"), ("spec",), report)
    labels = _selector(spec.get("selector"), ("spec", "selector"), report)
    port = _port(spec.get("targetPortNumber"), ("spec", "targetPortNumber"), report)
    ref = spec.get("extensionRef")
    number = _plain(ref).get("portNumber")
    picker = _picker(ref, "extensionRef", PICKER_PORT if number is None else number, ("portNumber",), report)
    return _pool(raw, LEGACY_POOL_GROUP, labels, (port,), AppProtocol.HTTP, picker, report)


def _pool(
    raw: Mapping[str, Any],
    group: str,
    selector: str,
    ports: tuple[int, ...],
    protocol: AppProtocol,
    picker: tuple[str, int, FailureMode],
    report: Report,
) -> PoolSpec | None:
    metadata = _plain(raw.get("metadata"))
    if report.problems:
        return None
    service, port, failure_mode = picker
    annotations = _words(metadata.get("annotations"))
    annotations.pop(_APPLIED, None)  # the object once more
    return PoolSpec(
        namespace=str(metadata.get("namespace", "")),
        name=str(metadata.get("name", "")),
        selector=selector,
        target_ports=ports,
        group=group,
        app_protocol=protocol,
        picker_service=service,
        picker_port=port,
        failure_mode=failure_mode,
        uid=str(metadata.get("uid", "")),
        labels=_words(metadata.get("labels")),
        annotations=annotations,
    )


def _selector(value: Any, at: Path, report: Report) -> str:
    labels = _mapping(value, at, report)
    if isinstance(value, Mapping) and not labels:
        report.error(at, "is empty; write the labels of the model servers' pods, such as 'app: vllm'")
    if len(labels) > MAX_SELECTOR_LABELS:
        report.error(at, f"has {len(labels)} labels; at most {MAX_SELECTOR_LABELS}")
    good = {key: text for key, text in labels.items() if isinstance(text, str)}
    for key in labels.keys() - good.keys():
        report.error((*at, str(key)), "is no string; put it in quotes")
    try:
        return str(selectors.of_labels(good))
    except selectors.SelectorError as error:
        report.error(at, str(error))
        return ""


def _target_ports(value: Any, report: Report) -> tuple[int, ...]:
    at: Path = ("spec", "targetPorts")
    if not isinstance(value, list) or not value:
        report.error(at, "expected 1 to 8 ports of the model servers, such as '- number: 8000'")
        return ()
    if len(value) > MAX_TARGET_PORTS:
        report.error(at, f"has {len(value)} ports; at most {MAX_TARGET_PORTS}")
        return ()
    ports: list[int] = []
    for i, item in enumerate(value):
        port = _port(_mapping(item, (*at, i), report).get("number"), (*at, i, "number"), report)
        if port and port in ports:
            report.error((*at, i, "number"), f"{port} stands twice; leave one out")
        ports.append(port)
    return tuple(ports)


def _port(value: Any, at: Path, report: Report) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    report.error(at, f"{_show(value)} is not a port; write a number from 1 to 65535")
    return 0


def _app_protocol(value: Any, report: Report) -> AppProtocol:
    if value is None or value == "":
        return AppProtocol.HTTP
    try:
        return AppProtocol(value)
    except ValueError:
        words = [str(one) for one in AppProtocol]
        near = nearest(value, words) if isinstance(value, str) else ""
        report.error(("spec", "appProtocol"), f"{_show(value)} is not {choices(words)}{near}")
        return AppProtocol.HTTP


def _picker(ref: Any, field: str, port: Any, port_at: Path, report: Report) -> tuple[str, int, FailureMode]:
    """What the gateway is told of its picker. Its mistakes are notices: no pod hangs on it."""
    none = ("", 0, FailureMode.CLOSE)
    if not isinstance(ref, Mapping):
        return none
    at: Path = ("spec", field)
    mode = ref.get("failureMode")
    if mode not in (None, "FailOpen", "FailClose"):
        report.notice(
            (*at, "failureMode"), f"{_show(mode)} is not 'FailOpen' or 'FailClose'; taken as FailClose"
        )
        mode = None
    failure_mode = FailureMode(mode) if mode else FailureMode.CLOSE
    kind, name = ref.get("kind", "Service"), ref.get("name")
    if (kind, ref.get("group", "")) != ("Service", ""):
        report.notice(
            (*at, "kind"), f"{_show(kind)} is not a core Service; requests are not matched to pools by it"
        )
        return ("", 0, failure_mode)
    if not isinstance(name, str) or not name:
        report.notice((*at, "name"), "is empty; name the Service of the endpoint picker")
        return ("", 0, failure_mode)
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        report.notice(
            (*at, *port_at), f"{_show(port)} is not a port; gateways need that of the picker's Service"
        )
        port = 0
    return (name, port, failure_mode)


def _mapping(value: Any, at: Path, report: Report) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if not any(report.blames(at[:length]) for length in range(1, len(at))):
        report.error(at, "is required" if value is None else f"expected a mapping, got {_show(value)}")
    return {}


def _plain(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _words(value: Any) -> dict[str, str]:
    return {str(key): text for key, text in _plain(value).items() if isinstance(text, str)}


def _show(value: Any) -> str:
    """Short, whatever it is."""
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
