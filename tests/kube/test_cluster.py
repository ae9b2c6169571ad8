"""What a cluster tells of a real API server's pools and pods, and what it writes there of bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from epp.domain.pool import LEGACY_POOL_GROUP, AppProtocol
from epp.kube import selectors
from epp.kube.api import Kube
from epp.kube.cluster import Cluster
from epp.kube.events import Events
from epp.kube.informer import Informer
from epp.kube.pods import ACTIVE_PORTS, METRICS_PORT
from epp.kube.selection import ManyPools, OnePool, PodsAlone, Selection, Source
from tests.fakes.informers import NotingView, NotingWorld

from .rig import ADMIN, HERE, ApiServer, Object, objective, pool, rewrite, until

APP = {"app": "chat"}


@dataclass
class Scene:
    server: ApiServer
    namespace: str
    world: NotingWorld
    cluster: Cluster

    @property
    def view(self) -> NotingView | None:
        return self.world.views.get(f"{self.namespace}/chat")

    async def has(self, *names: str) -> None:
        """Until exactly these endpoints are in the pool `chat`."""
        await until(
            lambda: self.view is not None and self.view.names == sorted(names),
            f"these endpoints: {names}",
        )

    def pod(self, name: str, labels: dict[str, str] | None = None, **more: Any) -> Object:
        return self.server.pod(self.namespace, name, APP if labels is None else labels, **more)

    def events(self) -> list[tuple[str, str, str, str]]:
        """Kind, name, reason and message of each."""
        items = self.server.request("GET", f"/api/v1/namespaces/{self.namespace}/events")["items"]
        return sorted(
            (one["involvedObject"]["kind"], one["involvedObject"]["name"], one["reason"], one["message"])
            for one in items
        )


@asynccontextmanager
async def following(
    server: ApiServer, namespace: str, selection: Selection, user: str = ADMIN
) -> AsyncIterator[Scene]:
    kube = await Kube.open(server.kubeconfig(user), {})
    events, world = Events(kube, "epp-0"), NotingWorld()
    cluster = Cluster(partial(Informer, kube), selection, world, events)
    tasks = [asyncio.create_task(cluster.run()), asyncio.create_task(events.run())]
    try:
        yield Scene(server, namespace, world, cluster)
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await kube.close()


async def ready(scene: Scene) -> None:
    await until(lambda: not scene.cluster.missing(), "ready")


async def test_pods_come_and_go(apiserver: ApiServer, namespace: str) -> None:
    apiserver.create(pool(namespace, "chat", APP))
    apiserver.pod(namespace, "before", APP, ip="127.0.0.2")
    apiserver.pod(namespace, "other", {"app": "other"})
    async with following(apiserver, namespace, OnePool(namespace, "chat")) as scene:
        await scene.has("before-rank-0")
        assert scene.view is not None
        assert [(one.address, one.port) for one in scene.view.endpoints or ()] == [("127.0.0.2", 8000)]
        assert list(scene.cluster.missing()) == []
        later = scene.pod("later")
        await scene.has("before-rank-0", "later-rank-0")
        apiserver.delete(later)
        await scene.has("before-rank-0")


async def test_readiness_labels_and_the_end_of_a_pod(apiserver: ApiServer, namespace: str) -> None:
    apiserver.create(pool(namespace, "chat", APP))
    for selection in (OnePool(namespace, "chat"), ManyPools(namespace)):
        async with following(apiserver, namespace, selection) as scene:
            a = scene.pod("a", ready=False)
            await scene.has()
            apiserver.pod_status(a)
            await scene.has("a-rank-0")
            apiserver.pod_status(a, ready=False)
            await scene.has()
            apiserver.pod_status(a)
            await scene.has("a-rank-0")
            apiserver.patch(a, {"metadata": {"labels": {"app": "not"}}})
            await scene.has()
            apiserver.patch(a, {"metadata": {"labels": {"app": "chat", "llm-d.ai/role": "decode"}}})
            await scene.has("a-rank-0")
            assert scene.view is not None
            (one,) = scene.view.endpoints or ()
            assert one.labels == {"app": "chat", "llm-d.ai/role": "decode"}
            apiserver.delete(a, grace_s=30)
            await scene.has()
            assert apiserver.read(a)["metadata"]["deletionTimestamp"], "it is only ending"
            apiserver.delete(a)


async def test_several_ports_and_what_annotations_say_of_them(apiserver: ApiServer, namespace: str) -> None:
    apiserver.create(pool(namespace, "chat", APP, ports=(8000, 8001, 8002)))
    async with following(apiserver, namespace, OnePool(namespace, "chat")) as scene:
        a = scene.pod("a", annotations={METRICS_PORT: "9400,9401,9402"}, spec={"hostNetwork": True})
        await scene.has("a-rank-0", "a-rank-1", "a-rank-2")
        assert scene.view is not None
        assert [(one.port, one.metrics_port) for one in scene.view.endpoints or ()] == [
            (8000, 9400),
            (8001, 9401),
            (8002, 9402),
        ]
        apiserver.patch(a, {"metadata": {"annotations": {ACTIVE_PORTS: "8001,1"}}})
        await scene.has("a-rank-1")
        apiserver.patch(a, {"metadata": {"annotations": {ACTIVE_PORTS: "some"}}})
        await scene.has("a-rank-0", "a-rank-1", "a-rank-2")
        await until(lambda: len(scene.events()) == 1, "an Event")
        ((kind, name, reason, message),) = scene.events()
        assert (kind, name, reason) == ("Pod", "a", "InvalidAnnotation")
        assert message.startswith(f"{ACTIVE_PORTS}: 'some' is no list of ports")


async def test_dual_stack(apiserver: ApiServer, namespace: str) -> None:
    apiserver.create(pool(namespace, "chat", APP))
    async with following(apiserver, namespace, OnePool(namespace, "chat")) as scene:
        scene.pod("six", ip="fd00::1", status={"podIPs": [{"ip": "fd00::1"}, {"ip": "10.1.1.1"}]})
        await scene.has("six-rank-0")
        assert scene.view is not None
        assert [one.address for one in scene.view.endpoints or ()] == ["fd00::1"]


async def test_the_pool_changes_its_selector_and_ports(apiserver: ApiServer, namespace: str) -> None:
    chat = apiserver.create(pool(namespace, "chat", APP))
    for selection in (OnePool(namespace, "chat"), ManyPools(namespace)):
        async with following(apiserver, namespace, selection) as scene:
            pods = [scene.pod("a"), scene.pod("b", {"app": "new"})]
            await scene.has("a-rank-0")
            apiserver.patch(chat, {"spec": {"selector": {"matchLabels": {"app": "new"}}}})
            await scene.has("b-rank-0")
            c = scene.pod("c", {"app": "new"})
            await scene.has("b-rank-0", "c-rank-0")
            apiserver.patch(chat, {"spec": {"targetPorts": [{"number": 9000}, {"number": 9001}]}})
            await scene.has("b-rank-0", "b-rank-1", "c-rank-0", "c-rank-1")
            apiserver.patch(chat, {"spec": {"appProtocol": "kubernetes.io/h2c"}})
            spec = scene.world.specs
            await until(
                lambda spec=spec: spec[f"{namespace}/chat"].app_protocol is AppProtocol.H2C,
                "the protocol is told",
            )
            for one in (*pods, c):
                apiserver.delete(one)
            back = {
                "selector": {"matchLabels": APP},
                "targetPorts": [{"number": 8000}],
                "appProtocol": "http",
            }
            apiserver.patch(chat, {"spec": back})


async def test_the_pool_goes_and_comes_back(apiserver: ApiServer, namespace: str) -> None:
    async with following(apiserver, namespace, OnePool(namespace, "chat")) as scene:
        await until(lambda: "there is no InferencePool chat" in str(scene.cluster.missing()), "missing")
        chat = apiserver.create(pool(namespace, "chat", APP))
        scene.pod("a")
        await scene.has("a-rank-0")
        apiserver.delete(chat)
        await until(lambda: scene.view is None, "the pool is gone")
        assert f"there is no InferencePool chat in namespace {namespace}" in str(scene.cluster.missing())
        scene.pod("b")
        apiserver.create(pool(namespace, "chat", APP))
        await scene.has("a-rank-0", "b-rank-0")


async def test_pools_of_both_groups(apiserver: ApiServer, namespace: str) -> None:
    apiserver.create(pool(namespace, "chat", APP, ports=(8000, 8001)))
    apiserver.create(_legacy(namespace, "chat"))
    apiserver.create(_legacy(namespace, "old"))
    apiserver.pod(namespace, "a", APP)
    async with following(apiserver, namespace, OnePool(namespace, "chat", LEGACY_POOL_GROUP)) as scene:
        await scene.has("a-rank-0")
    async with following(apiserver, namespace, ManyPools(namespace)) as scene:
        await scene.has("a-rank-0", "a-rank-1")
        await until(lambda: f"{namespace}/old" in scene.world.views, "the old pool has come")
        old = scene.world.views[f"{namespace}/old"]
        await until(lambda: old.names == ["a-rank-0"], "the old pool is served too")
        assert scene.world.specs[f"{namespace}/old"].picker_port == 9002


async def test_pods_alone(apiserver: ApiServer, namespace: str) -> None:
    selection = PodsAlone(namespace, "chat", selectors.parse("app in (chat,talk),!batch"), (8000,))
    async with following(apiserver, namespace, selection) as scene:
        scene.pod("a")
        scene.pod("b", {"app": "talk"})
        scene.pod("c", {"app": "chat", "batch": ""})
        await scene.has("a-rank-0", "b-rank-0")
        assert list(scene.cluster.missing()) == []


async def test_endpoint_slices_in_place_of_pods(apiserver: ApiServer, namespace: str) -> None:
    """With no right to read pods."""
    rules = [
        {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]},
    ]
    apiserver.grant("bob", namespace, [{**rule, "verbs": ["get", "list", "watch"]} for rule in rules])
    apiserver.create(pool(namespace, "chat", APP))
    target = {"kind": "Pod", "name": "a", "namespace": namespace}
    made = apiserver.create(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "vllm-x1",
                "namespace": namespace,
                "labels": {**APP, "kubernetes.io/service-name": "vllm"},
            },
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.1.1.1"], "conditions": {"ready": True}, "targetRef": target},
                {"addresses": ["10.1.1.2"]},
            ],
        }
    )
    by_service = selectors.parse("kubernetes.io/service-name=vllm")
    for selection in (
        OnePool(namespace, "chat", source=Source.SLICES),
        PodsAlone(namespace, "chat", by_service, (8000,), source=Source.SLICES),
    ):
        async with following(apiserver, namespace, selection, user="bob") as scene:
            await scene.has("a-rank-0", "vllm-x1-10.1.1.2-rank-0")
            ending = {"ready": False, "serving": True, "terminating": True}
            first, second = made["endpoints"]
            apiserver.patch(made, {"endpoints": [{**first, "conditions": ending}, second]})
            await scene.has("vllm-x1-10.1.1.2-rank-0")
            apiserver.patch(made, {"endpoints": [first, second]})


async def test_pools_of_every_namespace_by_their_labels(apiserver: ApiServer, namespace: str) -> None:
    other = apiserver.namespace()
    for space in (namespace, other):
        labelled = pool(space, "chat", APP)
        labelled["metadata"]["labels"] = {"team": namespace}
        apiserver.create(labelled)
        apiserver.create(pool(space, "unlabelled", APP))
        apiserver.pod(space, f"in-{space}", APP)
    selection = ManyPools(None, selectors.parse(f"team={namespace}"))
    async with following(apiserver, namespace, selection) as scene:
        await scene.has(f"in-{namespace}-rank-0")
        assert set(scene.world.views) == {f"{namespace}/chat", f"{other}/chat"}
        assert scene.world.views[f"{other}/chat"].names == [f"in-{other}-rank-0"]


async def test_objectives_and_rewrites_of_both_groups(apiserver: ApiServer, namespace: str) -> None:
    apiserver.create(pool(namespace, "chat", APP))
    gold = apiserver.create(objective(namespace, "gold", "chat", 9))
    apiserver.create(objective(namespace, "gold", "chat", 1, group=LEGACY_POOL_GROUP))
    apiserver.create(objective(namespace, "plain", "chat", None, group=LEGACY_POOL_GROUP))
    apiserver.create(objective(namespace, "other", "other", 3))
    rules = [{"matches": [{"model": {"type": "Exact", "value": "m"}}], "targets": [{"modelRewrite": "n"}]}]
    apiserver.create(rewrite(namespace, "r", "chat", rules))
    async with following(apiserver, namespace, OnePool(namespace, "chat")) as scene:
        await ready(scene)
        view = scene.view
        assert view is not None
        assert {name: one.priority for name, one in view.objectives.items()} == {"gold": 9, "plain": 0}
        assert [(one.name, one.rules[0].models) for one in view.rewrites] == [("r", ("m",))]
        assert view.rewrites[0].created_at
        apiserver.patch(gold, {"spec": {"priority": -2}})
        await until(lambda: view.objectives["gold"].priority == -2, "the new priority")
        apiserver.delete(gold)
        await until(lambda: view.objectives["gold"].priority == 1, "the old group's")


async def test_bad_objects_of_every_kind(private_apiserver: Callable[[], ApiServer]) -> None:
    """On a server whose CRDs let everything in, as one of another version may."""
    server = private_apiserver()
    _open_crds(server)
    namespace = server.namespace()
    server.create(pool(namespace, "chat", APP))
    server.pod(namespace, "a", APP, annotations={METRICS_PORT: "none"})
    server.create(objective(namespace, "gold", "chat", 9))
    good = [{"targets": [{"modelRewrite": "n"}]}]
    server.create(rewrite(namespace, "r", "chat", good))
    server.create(pool(namespace, "bad", APP, targetPorts=[{"number": "http"}]))
    server.create(_legacy(namespace, "worse", targetPortNumber=0))
    server.create({**objective(namespace, "bad", "chat", 1), "spec": {"priority": "high"}})
    server.create(rewrite(namespace, "bad", "chat", [{"targets": []}]))
    async with following(server, namespace, ManyPools(namespace)) as scene:
        await scene.has("a-rank-0")
        await until(lambda: len(scene.events()) == 5, "an Event for each")
        assert [event[:3] for event in scene.events()] == [
            ("InferenceModelRewrite", "bad", "InvalidInferenceModelRewrite"),
            ("InferenceObjective", "bad", "InvalidInferenceObjective"),
            ("InferencePool", "bad", "InvalidInferencePool"),
            ("InferencePool", "worse", "InvalidInferencePool"),
            ("Pod", "a", "InvalidAnnotation"),
        ]
        view = scene.view
        assert view is not None
        assert set(view.objectives) == {"gold"}
        assert [one.name for one in view.rewrites] == ["r"]
        server.patch(pool(namespace, "chat", APP), {"spec": {"selector": {"matchLabels": {"app": 7}}}})
        await until(lambda: len(scene.events()) == 6, "an Event for the pool that turned bad")
        scene.pod("b")
        await scene.has("a-rank-0", "b-rank-0")
        described = server.kubectl(
            "describe", "inferencepools.inference.networking.k8s.io", "bad", "-n", namespace
        )
        assert "InvalidInferencePool" in described
        assert "spec.targetPorts[0].number: 'http' is not a port" in described


async def test_an_api_server_that_is_killed(private_apiserver: Callable[[], ApiServer]) -> None:
    """What is known stays, and it catches up; a server that starts and knows no pools yet ends none."""
    server = private_apiserver()
    server.inference_crds()
    namespace = server.namespace()
    server.create(pool(namespace, "chat", APP))
    server.create(objective(namespace, "gold", "chat", 9))
    pods = [server.pod(namespace, name, APP) for name in "abc"]
    async with (
        following(server, namespace, OnePool(namespace, "chat")) as one,
        following(server, namespace, ManyPools()) as many,
    ):
        for scene in (one, many):
            await scene.has("a-rank-0", "b-rank-0", "c-rank-0")
            await ready(scene)
        server.kill()
        for scene in (one, many):
            await until(lambda scene=scene: len(scene.cluster.trouble()) >= 6, "all lists are in trouble")
            assert list(scene.cluster.missing()) == []
            assert scene.view is not None
            assert scene.view.names == ["a-rank-0", "b-rank-0", "c-rank-0"]
        server.restart()
        server.delete(pods[1])
        for scene in (one, many):
            await scene.has("a-rank-0", "c-rank-0")
            await until(lambda scene=scene: not scene.cluster.trouble(), "all are followed again")
            assert scene.world.log == [("came", f"{namespace}/chat")]
            assert scene.view is not None
            assert set(scene.view.objectives) == {"gold"}


async def test_without_rights_it_says_so_and_without_events_it_serves(
    apiserver: ApiServer, namespace: str
) -> None:
    apiserver.create(pool(namespace, "chat", APP))
    apiserver.pod(namespace, "a", APP, annotations={ACTIVE_PORTS: "x"})
    async with following(apiserver, namespace, OnePool(namespace, "chat"), user="picker") as scene:
        await until(lambda: len(scene.cluster.trouble()) == 5, "it has asked for everything but pods")
        (said,) = scene.cluster.missing()
        assert "inferencepools" in said
        assert '"picker" cannot list' in said
        read = ["get", "list", "watch"]
        apiserver.grant(
            "picker",
            namespace,
            [
                {
                    "apiGroups": ["inference.networking.k8s.io"],
                    "resources": ["inferencepools"],
                    "verbs": read,
                },
                {"apiGroups": [""], "resources": ["pods"], "verbs": read},
            ],
        )
        await scene.has("a-rank-0")
        assert list(scene.cluster.missing()) == []
        assert "inferenceobjectives" in str(scene.cluster.trouble())
        assert scene.events() == []


async def test_without_crds(private_apiserver: Callable[[], ApiServer]) -> None:
    server = private_apiserver()
    namespace = server.namespace()
    server.pod(namespace, "a", APP)
    async with following(server, namespace, OnePool(namespace, "chat")) as scene:
        await until(lambda: "install the CRDs" in str(scene.cluster.missing()), "it says what to install")
    alone = PodsAlone(namespace, "chat", selectors.parse("app=chat"), (8000,))
    async with following(server, namespace, alone) as scene:
        await scene.has("a-rank-0")


def _legacy(namespace: str, name: str, **spec: Any) -> Object:
    return {
        "apiVersion": f"{LEGACY_POOL_GROUP}/v1alpha2",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": APP, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}, **spec},
    }


def _open_crds(server: ApiServer) -> None:
    """The definitions of all kinds, without their schemas."""
    theirs = Path(server.parts.inference_crds)
    folder = server.folder / "open"
    folder.mkdir()
    for path in (*theirs.glob("*.yaml"), *(HERE / "crds").glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())
        for version in definition["spec"]["versions"]:
            anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            version["schema"]["openAPIV3Schema"] = anything
        (folder / path.name).write_text(yaml.safe_dump(definition))
    server.crds(sorted(folder.glob("*.yaml")))
