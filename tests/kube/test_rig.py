"""The rig itself does what its name says: what the scenes of the other files rest on."""

from __future__ import annotations

import pytest

from .rig import NODE, ApiError, ApiServer, objective, pool, rewrite, wait_until


def test_a_pod_has_the_status_that_a_kubelet_would_write(apiserver: ApiServer, namespace: str) -> None:
    pod = apiserver.pod(namespace, "a", {"app": "x"}, ip="127.0.0.7")
    assert pod["status"]["podIP"] == "127.0.0.7"
    assert pod["spec"]["nodeName"] == NODE
    assert apiserver.pod_status(pod, ready=False)["status"]["conditions"][0]["status"] == "False"


def test_a_pod_ends_after_its_grace_period_only(apiserver: ApiServer, namespace: str) -> None:
    pod = apiserver.pod(namespace, "a", {})
    apiserver.delete(pod, grace_s=30)
    assert apiserver.read(pod)["metadata"]["deletionTimestamp"]
    apiserver.delete(pod)
    with pytest.raises(ApiError, match="404"):
        apiserver.read(pod)


def test_all_kinds_are_served(apiserver: ApiServer, namespace: str) -> None:
    created = apiserver.create(pool(namespace, "p", {"app": "x"}, ports=(8000, 8001)))
    assert created["spec"]["appProtocol"] == "http", "the CRD's defaults are at work"
    for group in ("llm-d.ai", "inference.networking.x-k8s.io"):
        apiserver.create(objective(namespace, "o", "p", -1, group=group))
        apiserver.create(rewrite(namespace, "r", "p", [{"targets": [{"modelRewrite": "m"}]}], group=group))
    old = {"selector": {"app": "x"}, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}}
    metadata = {"name": "p", "namespace": namespace}
    apiserver.create(
        {
            "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
            "kind": "InferencePool",
            "metadata": metadata,
        }
        | {"spec": old}
    )


def test_users_may_do_what_they_are_granted(apiserver: ApiServer, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"

    def allowed() -> bool:
        try:
            apiserver.request("GET", path, user="alice")
        except ApiError as error:
            if error.status == 403:
                return False
            raise
        return True

    assert not allowed()
    granted = apiserver.grant(
        "alice", namespace, [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    )
    wait_until(allowed, "alice may list pods")
    apiserver.revoke(granted)
    wait_until(lambda: not allowed(), "alice may not list pods any more")


def test_service_accounts_have_tokens(apiserver: ApiServer, namespace: str) -> None:
    apiserver.service_account(namespace, "epp")
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
    asked = {**review, "spec": {"token": apiserver.token(namespace, "epp")}}
    status = apiserver.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", asked)["status"]
    assert status["user"]["username"] == f"system:serviceaccount:{namespace}:epp"
