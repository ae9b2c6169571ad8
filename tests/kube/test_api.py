"""The connection to a real API server: every verb, and a token that ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from epp.kube.api import Kube
from epp.kube.resource import PODS, Resource

from .rig import ApiServer, wait_until

LIST = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]


async def test_a_service_account_whose_token_is_replaced(
    apiserver: ApiServer, namespace: str, tmp_path: Path
) -> None:
    """The account is made anew, which ends its tokens; the file gets a new one, as a kubelet does it."""
    account = apiserver.service_account(namespace, "epp")
    apiserver.grant("epp", namespace, LIST, account=True)
    apiserver.pod(namespace, "a", {})
    environ = apiserver.account(tmp_path, apiserver.token(namespace, "epp"), namespace=namespace)
    kube = await Kube.open(None, environ, account=tmp_path)
    assert kube.namespace == namespace
    path = PODS.path(namespace)
    assert len((await kube.get(path))["items"]) == 1

    apiserver.delete(account)
    apiserver.service_account(namespace, "epp")
    await asyncio.to_thread(
        wait_until, lambda: refused(apiserver, tmp_path, path), "the old token is refused"
    )
    (tmp_path / "token").write_text(apiserver.token(namespace, "epp"))
    assert len((await kube.get(path))["items"]) == 1
    await kube.close()


def refused(server: ApiServer, account: Path, path: str) -> bool:
    """The API server remembers for some seconds that a token was good."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
    asked = {**review, "spec": {"token": (account / "token").read_text()}}
    told = server.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", asked)["status"]
    return not told.get("authenticated", False)


async def test_every_verb_on_a_real_server(apiserver: ApiServer, namespace: str) -> None:
    lease = Resource("coordination.k8s.io", "v1", "leases", "Lease")
    kube = await Kube.open(apiserver.kubeconfig(), {})
    try:
        path = lease.path(namespace)
        body = {
            "apiVersion": lease.api_version,
            "kind": lease.kind,
            "metadata": {"name": "l"},
        }
        made = await kube.post(path, body={**body, "spec": {"holderIdentity": "a"}})
        made["spec"]["holderIdentity"] = "b"
        assert (await kube.put(f"{path}/l", body=made))["spec"]["holderIdentity"] == "b"
        patched = await kube.patch(f"{path}/l", body={"spec": {"holderIdentity": "c"}})
        assert patched["spec"]["holderIdentity"] == "c"
        dry = await kube.patch(f"{path}/l", params={"dryRun": "All"}, body={"spec": {"holderIdentity": "d"}})
        assert dry["spec"]["holderIdentity"] == "d"
        assert (await kube.get(f"{path}/l"))["spec"]["holderIdentity"] == "c"
        assert (await kube.delete(f"{path}/l"))["status"] == "Success"
    finally:
        await kube.close()
