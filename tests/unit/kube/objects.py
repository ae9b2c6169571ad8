"""Raw objects as an API server holds them; what a test does not name is as in a usual cluster."""

from __future__ import annotations

from typing import Any


def metadata(name: str, namespace: str = "prod", **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, "uid": f"uid-{name}", **more}


def pool(
    name: str = "chat",
    namespace: str = "prod",
    labels: dict[str, str] | None = None,
    ports: tuple[int, ...] = (8000,),
    **spec: Any,
) -> dict[str, Any]:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": metadata(name, namespace),
        "spec": {
            "selector": {"matchLabels": {"app": name} if labels is None else labels},
            "targetPorts": [{"number": port} for port in ports],
            "endpointPickerRef": {"name": f"{name}-epp", "port": {"number": 9002}},
            **spec,
        },
    }


def legacy_pool(name: str = "chat", namespace: str = "prod", port: int = 8000, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "kind": "InferencePool",
        "metadata": metadata(name, namespace),
        "spec": {
            "selector": {"app": name},
            "targetPortNumber": port,
            "extensionRef": {"name": f"{name}-epp"},
            **spec,
        },
    }


def pod(
    name: str,
    ip: str = "10.0.0.1",
    namespace: str = "prod",
    labels: dict[str, str] | None = None,
    *,
    ready: bool = True,
    phase: str = "Running",
    annotations: dict[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {
        "metadata": metadata(
            name,
            namespace,
            labels={"app": "chat"} if labels is None else labels,
            annotations=annotations or {},
            **more,
        ),
        "spec": {"containers": [{"name": "server", "image": "server"}]},
        "status": {
            "phase": phase,
            "podIP": ip,
            "podIPs": [{"ip": ip}] if ip else [],
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True" if ready else "False"},
            ],
        },
    }


def objective(
    name: str,
    priority: int = 1,
    pool: str = "chat",
    namespace: str = "prod",
    group: str = "llm-d.ai",
    **ref: Any,
) -> dict[str, Any]:
    return {
        "apiVersion": f"{group}/v1alpha2",
        "kind": "InferenceObjective",
        "metadata": metadata(name, namespace),
        "spec": {"priority": priority, "poolRef": {"name": pool, **ref}},
    }


def rewrite(
    name: str, to: str = "b", pool: str = "chat", namespace: str = "prod", group: str = "llm-d.ai"
) -> dict[str, Any]:
    return {
        "apiVersion": f"{group}/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": metadata(name, namespace, creationTimestamp="2026-01-01T00:00:00Z"),
        "spec": {"poolRef": {"name": pool}, "rules": [{"targets": [{"modelRewrite": to}]}]},
    }
