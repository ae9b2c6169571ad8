"""Short ways to put objects into a real API server.

There is no kubelet and no controller: what they would write, a pod's status or the end of its deletion, the
tests write.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .server import ADMIN, USERS, ApiError, Object, Parts, Server, parts, until, wait_until

__all__ = [
    "ADMIN",
    "USERS",
    "ApiError",
    "ApiServer",
    "Object",
    "Parts",
    "objective",
    "parts",
    "pool",
    "rewrite",
    "until",
    "wait_until",
]

HERE = Path(__file__).parent
NODE = "node-1"
"""Pods name it, so that their deletion waits for a grace period as on a node."""
_serial = itertools.count(1)


class ApiServer(Server):
    """The whole rig: processes, client, and the objects of a cluster."""

    def namespace(self, name: str = "") -> str:
        """A new one."""
        name = name or f"t{next(_serial)}-{os.getpid()}"
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def pod(
        self,
        namespace: str,
        name: str,
        labels: Mapping[str, str],
        *,
        ip: str = "127.0.0.1",
        ready: bool = True,
        annotations: Mapping[str, str] | None = None,
        spec: Mapping[str, Any] | None = None,
        status: Mapping[str, Any] | None = None,
    ) -> Object:
        """A pod that runs, as a kubelet would tell it; `spec` and `status` add to that."""
        metadata = {
            "name": name,
            "namespace": namespace,
            "labels": dict(labels),
            "annotations": dict(annotations or {}),
        }
        created = self.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata,
                "spec": {
                    "nodeName": NODE,
                    "containers": [{"name": "engine", "image": "engine"}],
                    **(spec or {}),
                },
            }
        )
        return self.pod_status(created, ip=ip, ready=ready, status=status)

    def pod_status(
        self,
        pod: Mapping[str, Any],
        *,
        ip: str = "127.0.0.1",
        ready: bool = True,
        status: Mapping[str, Any] | None = None,
    ) -> Object:
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        ips = [{"ip": ip}] if ip else []
        told = {"phase": "Running", "podIP": ip, "podIPs": ips, "conditions": conditions, **(status or {})}
        return self.patch(pod, {"status": told}, part="/status")

    def grant(
        self, user: str, namespace: str, rules: Sequence[Mapping[str, Any]], *, account: bool = False
    ) -> Object:
        """A Role and its binding for a user, or for a service account there; `revoke` takes it back."""
        name = f"r{next(_serial)}"
        metadata = {"name": name, "namespace": namespace}
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": list(rules),
        }
        self.create(role)
        subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
        if account:
            subject = {"kind": "ServiceAccount", "name": user, "namespace": namespace}
        return self.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": {"kind": "Role", "name": name, "apiGroup": "rbac.authorization.k8s.io"},
                "subjects": [subject],
            }
        )

    def revoke(self, granted: Mapping[str, Any]) -> None:
        self.delete(granted)

    def service_account(self, namespace: str, name: str) -> Object:
        metadata = {"name": name, "namespace": namespace}
        return self.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})

    def token(self, namespace: str, name: str) -> str:
        """A signed token of a service account, for 10 minutes, the least that the API gives."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 600},
        }
        return str(self.request("POST", path, asked)["status"]["token"])

    # Resources of others

    def crds(self, paths: Iterable[Path]) -> None:
        """Creates the definitions in these files, if they are not there, and waits until they are served."""
        for path in paths:
            definition = yaml.safe_load(path.read_text())
            try:
                self.create(definition)
            except ApiError as error:
                if error.status != 409:
                    raise
            self.established(definition)

    def established(self, definition: Mapping[str, Any]) -> None:
        spec = definition["spec"]

        def served() -> bool:
            try:
                for version in spec["versions"]:
                    if version["served"]:
                        self.request(
                            "GET",
                            f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}?limit=1",
                        )
            except ApiError:
                return False
            return True

        wait_until(served, f"{definition['metadata']['name']} is served")

    def inference_crds(self) -> None:
        """Pools of both groups, objectives and rewrites of both groups."""
        theirs = Path(self.parts.inference_crds)
        self.crds([*sorted(theirs.glob("*.yaml")), *sorted((HERE / "crds").glob("*.yaml"))])


def pool(
    namespace: str,
    name: str,
    selector: Mapping[str, str],
    *,
    ports: Sequence[int] = (8000,),
    picker: str = "epp",
    picker_port: int = 9002,
    **spec: Any,
) -> Object:
    """An InferencePool of the stable group; `spec` adds to or replaces its fields."""
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": dict(selector)},
            "targetPorts": [{"number": port} for port in ports],
            "endpointPickerRef": {"name": picker, "port": {"number": picker_port}},
            **spec,
        },
    }


def objective(
    namespace: str, name: str, pool: str, priority: int | None, *, group: str = "llm-d.ai"
) -> Object:
    spec: Object = {"poolRef": {"name": pool}}
    if priority is not None:
        spec["priority"] = priority
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": f"{group}/v1alpha2",
        "kind": "InferenceObjective",
        "metadata": metadata,
        "spec": spec,
    }


def rewrite(
    namespace: str, name: str, pool: str, rules: Sequence[Mapping[str, Any]], *, group: str = "llm-d.ai"
) -> Object:
    spec = {"poolRef": {"name": pool}, "rules": list(rules)}
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": f"{group}/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": metadata,
        "spec": spec,
    }
