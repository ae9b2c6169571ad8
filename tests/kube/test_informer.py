"""An informer on a real API server: what it sees, and what it outlives."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from epp.kube.api import Kube
from epp.kube.informer import Informer
from epp.kube.resource import PODS, Resource

from .rig import ApiServer, objective, pool, until

POOLS = Resource("inference.networking.k8s.io", "v1", "inferencepools", "InferencePool")
OBJECTIVES = Resource("llm-d.ai", "v1alpha2", "inferenceobjectives", "InferenceObjective")
LIST_AND_WATCH = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]


class Seen:
    """The world as it was told."""

    def __init__(self) -> None:
        self.world: dict[str, Mapping[str, Any]] = {}
        self.lists: list[set[str]] = []

    def replaced(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
        self.world = dict(objects)
        self.lists.append(set(objects))

    def changed(self, key: str, object: Mapping[str, Any]) -> None:
        self.world[key] = object

    def removed(self, key: str) -> None:
        del self.world[key]

    @property
    def names(self) -> set[str]:
        return {key.partition("/")[2] for key in self.world}


@contextlib.asynccontextmanager
async def following(
    kube: Kube, seen: Seen, resource: Resource = PODS, **options: Any
) -> AsyncIterator[Informer]:
    """Pauses a hundredth of the time, so that half a minute of backing off is no half minute of test."""
    options.setdefault("sleep", lambda wait_s: asyncio.sleep(wait_s / 100))
    informer = Informer(kube, resource, seen, rng=random.Random(3), **options)
    task = asyncio.create_task(informer.run())
    yield informer
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@contextlib.asynccontextmanager
async def kube_of(path: Path) -> AsyncIterator[Kube]:
    kube = await Kube.open(path, {})
    yield kube
    await kube.close()


async def test_pods_are_followed_through_their_life(apiserver: ApiServer, namespace: str) -> None:
    a = apiserver.pod(namespace, "a", {"app": "x"}, ip="127.0.0.2")
    apiserver.pod(namespace, "other", {"app": "y"})
    seen = Seen()
    async with (
        kube_of(apiserver.kubeconfig()) as kube,
        following(kube, seen, namespace=namespace, labels="app=x", page=1) as informer,
    ):
        await until(lambda: informer.synced, "the pods are listed")
        assert seen.names == {"a"}
        assert seen.world[f"{namespace}/a"]["status"]["podIP"] == "127.0.0.2"
        apiserver.pod(namespace, "b", {"app": "x"})
        await until(lambda: seen.names == {"a", "b"}, "a new pod is seen")
        apiserver.delete(a, grace_s=30)
        await until(lambda: "deletionTimestamp" in seen.world[f"{namespace}/a"]["metadata"], "a pod ends")
        apiserver.delete(a)
        await until(lambda: seen.names == {"b"}, "it is gone")
        apiserver.patch(apiserver.pod(namespace, "c", {"app": "x"}), {"metadata": {"labels": {"app": "z"}}})
        apiserver.pod(namespace, "d", {"app": "x"})
        await until(lambda: seen.names == {"b", "d"}, "what is not selected any more is gone too")
        assert len(seen.lists) == 1


async def test_a_list_of_many_pages_is_told_once(apiserver: ApiServer, namespace: str) -> None:
    for name in "abcdefg":
        apiserver.create(objective(namespace, name, "p", 1))
    seen = Seen()
    async with (
        kube_of(apiserver.kubeconfig()) as kube,
        following(kube, seen, OBJECTIVES, namespace=namespace, page=2) as informer,
    ):
        await until(lambda: informer.synced, "the objectives are listed")
    assert seen.lists == [{f"{namespace}/{name}" for name in "abcdefg"}]


async def test_an_api_server_that_is_killed(private_apiserver: Callable[[], ApiServer]) -> None:
    """The last world stays; what was deleted meanwhile, with its history forgotten, is noticed after."""
    server = await asyncio.to_thread(private_apiserver)
    namespace = server.namespace()
    for name in "abc":
        server.pod(namespace, name, {})
    seen = Seen()
    async with kube_of(server.kubeconfig()) as kube, following(kube, seen, namespace=namespace) as informer:
        await until(lambda: informer.synced and not informer.trouble, "the pods are followed")
        server.kill()
        await until(lambda: "Disconnected" in informer.trouble, "it says that the server is away")
        assert seen.names == {"a", "b", "c"}
        server.etcd_delete(f"/registry/pods/{namespace}/b")
        server.etcd_compact()
        await asyncio.to_thread(server.restart)
        await until(lambda: seen.names == {"a", "c"}, "the pod that went meanwhile is gone")
        server.pod(namespace, "d", {})
        await until(lambda: seen.names == {"a", "c", "d"}, "and new ones are seen again")
        await until(lambda: not informer.trouble, "it follows again")
        assert seen.lists == [
            {f"{namespace}/{name}" for name in "abc"},
            {f"{namespace}/{name}" for name in "ac"},
        ]


async def test_permission_taken_and_given_back(apiserver: ApiServer, namespace: str) -> None:
    apiserver.pod(namespace, "a", {})
    seen = Seen()
    async with (
        kube_of(apiserver.kubeconfig("bob")) as kube,
        following(kube, seen, namespace=namespace) as informer,
    ):
        await until(lambda: bool(informer.trouble), "it may not list")
        assert informer.trouble.startswith(
            f"may not list pods/v1 in namespace {namespace}: a Role for this account needs "
            '{apiGroups: [""], resources: ["pods"], verbs: ["get", "list", "watch"]} '
            '(pods is forbidden: User "bob" cannot list'
        )
        assert not informer.synced
        granted = apiserver.grant("bob", namespace, [{**LIST_AND_WATCH[0], "verbs": ["list"]}])
        await until(lambda: informer.trouble.startswith("may not watch pods/v1"), "it may list, not watch")
        assert informer.synced
        assert seen.names == {"a"}
        apiserver.grant("bob", namespace, LIST_AND_WATCH)
        apiserver.revoke(granted)
        await until(lambda: not informer.trouble, "it follows")
        apiserver.pod(namespace, "b", {})
        await until(lambda: seen.names == {"a", "b"}, "a new pod is seen")


async def test_definitions_that_are_installed_later(private_apiserver: Callable[[], ApiServer]) -> None:
    server = await asyncio.to_thread(private_apiserver)
    seen = Seen()
    async with kube_of(server.kubeconfig()) as kube, following(kube, seen, POOLS) as informer:
        await until(lambda: informer.absent, "there is no such resource")
        assert (informer.synced, seen.lists, informer.trouble) == (True, [set()], "")
        await asyncio.to_thread(server.inference_crds)
        created = server.create(pool("default", "p", {"app": "x"}))
        await until(lambda: seen.names == {"p"}, "the first pool is seen")
        assert not informer.absent
        server.delete(created)
        await until(lambda: seen.names == set(), "its end is seen")
        name = "inferencepools.inference.networking.k8s.io"
        definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
        server.delete({**definition, "metadata": {"name": name}})
        await until(lambda: informer.absent, "the definition is removed again")
