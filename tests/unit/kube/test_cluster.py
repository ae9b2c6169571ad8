"""What a cluster tells of pools and pods, in every selection; lists are filled by the test, no API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from epp.datalayer.endpoints_file import MAX_ENDPOINTS
from epp.domain.endpoint import EndpointSpec
from epp.domain.objective import Objective
from epp.domain.pool import LEGACY_POOL_GROUP, POOL_GROUP, PoolSpec
from epp.kube import selectors
from epp.kube.cluster import MAX_POOLS, Cluster
from epp.kube.pods import ACTIVE_PORTS, METRICS_PORT
from epp.kube.pools import LEGACY_POOLS, POOLS
from epp.kube.resource import PODS, Resource
from epp.kube.selection import ManyPools, OnePool, PodsAlone, Selection
from tests.fakes.informers import FakeCluster, NotedWarnings, NotingView, NotingWorld
from tests.unit.kube import objects

OBJECTIVES = Resource("llm-d.ai", "v1alpha2", "inferenceobjectives", "InferenceObjective")
LEGACY_OBJECTIVES = Resource(
    "inference.networking.x-k8s.io", "v1alpha2", "inferenceobjectives", "InferenceObjective"
)
REWRITES = Resource("llm-d.ai", "v1alpha2", "inferencemodelrewrites", "InferenceModelRewrite")
CHAT = OnePool("prod", "chat")
ALL = ManyPools()


@dataclass
class Scene:
    api: FakeCluster
    world: NotingWorld
    warnings: NotedWarnings
    cluster: Cluster

    @property
    def chat(self) -> NotingView:
        return self.world.views["prod/chat"]


@asynccontextmanager
async def following(
    selection: Selection,
    api: FakeCluster | None = None,
    *,
    added_s: float = 0.0,
    world: NotingWorld | None = None,
) -> AsyncIterator[Scene]:
    api, world = api or FakeCluster(), world or NotingWorld()
    warnings = NotedWarnings()
    cluster = Cluster(api.follow, selection, world, warnings, added_s=added_s, again_s=0.0)
    task = asyncio.create_task(cluster.run())
    await turns()
    yield Scene(api, world, warnings, cluster)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert api.running == []


async def turns() -> None:
    """Everything that is due at the next turns of the loop is done."""
    for _ in range(8):
        await asyncio.sleep(0)


async def test_one_pool_asks_for_its_own_group_name_and_pods() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool(), objects.pool("other"))
    api.put(PODS, objects.pod("a"), objects.pod("b", labels={"app": "other"}))
    async with following(CHAT, api) as scene:
        assert scene.world.log == [("came", "prod/chat")]
        assert scene.chat.names == ["a-rank-0"]
        assert scene.chat.times == 1
        assert list(scene.cluster.missing()) == []
        assert {(one.namespace, one.fields, one.labels) for one in api.of(POOLS)} == {
            ("prod", "metadata.name=chat", "")
        }
        assert [one.labels for one in api.of(PODS)] == ["app=chat"]
        assert api.of(LEGACY_POOLS) == []


async def test_the_legacy_group_can_be_asked_for() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool())
    api.put(LEGACY_POOLS, objects.legacy_pool(port=7))
    api.put(PODS, objects.pod("a"))
    async with following(OnePool("prod", "chat", LEGACY_POOL_GROUP), api) as scene:
        assert [one.port for one in scene.chat.endpoints or ()] == [7]
        assert api.of(POOLS) == []


async def test_no_endpoints_before_every_pod_is_listed() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool())
    api.put(PODS, objects.pod("a"))
    api.lists = False
    async with following(CHAT, api) as scene:
        assert list(scene.cluster.missing()) == [f"{one.resource} are not listed yet" for one in api.running]
        for informer in list(api.running):
            informer.relist()
        await turns()
        assert scene.chat.endpoints is None
        assert list(scene.cluster.missing()) == ["pods are not listed yet"]
        (pods,) = api.of(PODS)
        pods.relist()
        assert scene.chat.names == ["a-rank-0"]
        assert list(scene.cluster.missing()) == []


async def test_what_goes_is_told_at_the_next_turn_what_is_added_may_wait() -> None:
    async with following(CHAT, added_s=3600) as scene:
        scene.api.put(POOLS, objects.pool())
        await turns()
        for n in range(20):
            scene.api.put(PODS, objects.pod(f"p{n}", f"10.0.0.{n}"))
        await turns()
        assert scene.chat.names == []
        for n in range(10):
            scene.api.delete(PODS, f"prod/p{n}")
        await asyncio.sleep(0)
        assert scene.chat.names == [f"p{n}-rank-0" for n in range(10, 20)]
        assert scene.chat.times == 2


async def test_what_is_added_is_told_once_for_all() -> None:
    async with following(CHAT) as scene:
        scene.api.put(POOLS, objects.pool())
        await turns()
        for n in range(20):
            scene.api.put(PODS, objects.pod(f"p{n}", f"10.0.0.{n}"))
        await turns()
        assert len(scene.chat.names or ()) == 20
        assert scene.chat.times == 2


async def test_readiness_termination_and_labels() -> None:
    async with following(ALL) as scene:
        scene.api.put(POOLS, objects.pool(ports=(8000, 8001)))
        for changed in (
            objects.pod("a", ready=False),
            objects.pod("a", deletionTimestamp="2026-01-01T00:00:00Z"),
            objects.pod("a", labels={"app": "none"}),
            objects.pod("a", annotations={ACTIVE_PORTS: ""}),
        ):
            scene.api.put(PODS, objects.pod("a"))
            await turns()
            assert scene.chat.names == ["a-rank-0", "a-rank-1"]
            scene.api.put(PODS, changed)
            await turns()
            assert scene.chat.names == []


async def test_an_endpoint_that_changes_is_told_at_the_next_turn() -> None:
    async with following(ALL) as scene:
        scene.api.put(POOLS, objects.pool())
        scene.api.put(PODS, objects.pod("a"))
        await turns()
        scene.api.put(PODS, objects.pod("a", "10.9.9.9", labels={"app": "chat", "v": "2"}))
        await turns()
        (one,) = scene.chat.endpoints or ()
        assert (one.address, one.labels) == ("10.9.9.9", {"app": "chat", "v": "2"})


async def test_what_does_not_matter_tells_nothing() -> None:
    async with following(CHAT) as scene:
        scene.api.put(POOLS, objects.pool())
        scene.api.put(PODS, objects.pod("a"))
        await turns()
        times = scene.chat.times
        scene.api.put(PODS, objects.pod("a", resourceVersion="2"))
        scene.api.put(POOLS, {**objects.pool(), "status": {"parents": [{}]}})
        await turns()
        assert scene.chat.times == times
        assert scene.world.log == [("came", "prod/chat")]


async def test_after_a_new_selector_the_old_endpoints_stay_until_the_new_are_listed() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool())
    api.put(PODS, objects.pod("a"), objects.pod("b"), objects.pod("c", labels={"app": "new"}))
    async with following(CHAT, api) as scene:
        api.lists = False
        api.put(POOLS, objects.pool(labels={"app": "new"}))
        await turns()
        assert scene.chat.names == ["a-rank-0", "b-rank-0"]
        api.delete(PODS, "prod/b")
        await turns()
        assert scene.chat.names == ["a-rank-0"]
        api.of(PODS)[1].relist()
        assert scene.chat.names == ["c-rank-0"]
        await turns()
        assert [one.labels for one in api.of(PODS)] == ["app=new"]
        assert scene.world.log == [("came", "prod/chat"), ("changed", "prod/chat")]


async def test_a_selector_that_changes_twice_before_its_pods_are_listed() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool())
    api.put(PODS, *(objects.pod(name, labels={"app": name}) for name in ("chat", "one", "two")))
    async with following(CHAT, api) as scene:
        api.lists = False
        api.put(POOLS, objects.pool(labels={"app": "one"}))
        await turns()
        api.put(POOLS, objects.pool(labels={"app": "two"}))
        await turns()
        assert [one.labels for one in api.of(PODS)] == ["app=chat", "app=two"]
        api.of(PODS)[1].relist()
        assert scene.chat.names == ["two-rank-0"]


async def test_new_ports_make_new_endpoints() -> None:
    for selection in (CHAT, ALL):
        api = FakeCluster()
        api.put(POOLS, objects.pool())
        api.put(PODS, objects.pod("a"))
        async with following(selection, api) as scene:
            api.put(POOLS, objects.pool(ports=(9000, 9001)))
            await turns()
            assert [one.port for one in scene.chat.endpoints or ()] == [9000, 9001]
            assert len(api.of(PODS)) == 1


async def test_a_pool_that_goes_and_comes_back() -> None:
    for selection in (CHAT, ALL):
        api = FakeCluster()
        api.put(POOLS, objects.pool())
        api.put(PODS, objects.pod("a"))
        async with following(selection, api) as scene:
            api.delete(POOLS, "prod/chat")
            await turns()
            assert scene.world.views == {}
            api.put(POOLS, objects.pool())
            await turns()
            assert scene.chat.names == ["a-rank-0"]
            assert [what for what, _ in scene.world.log] == ["came", "went", "came"]
            assert list(scene.cluster.missing()) == []
            api.put(POOLS, {**objects.pool(), "metadata": objects.metadata("chat", deletionTimestamp="now")})
            assert scene.world.views == {}


async def test_without_its_pool_one_pool_says_where_to_look() -> None:
    async with following(CHAT) as scene:
        (said,) = scene.cluster.missing()
        assert said == (
            f"there is no InferencePool chat in namespace prod (group {POOL_GROUP}); "
            f"see kubectl get inferencepools.{POOL_GROUP} -n prod"
        )
        scene.api.put(POOLS, objects.pool())
        await turns()
        assert list(scene.cluster.missing()) == []
        scene.api.delete(POOLS, "prod/chat")
        assert list(scene.cluster.missing()) == [said]


async def test_without_the_crds() -> None:
    for selection, words in (
        (CHAT, f"{POOLS}: install the CRDs"),
        (ALL, f"{POOLS} or {LEGACY_POOLS}: install the CRDs"),
    ):
        api = FakeCluster()
        api.unknown = {POOLS, LEGACY_POOLS}
        async with following(selection, api) as scene:
            (said,) = scene.cluster.missing()
            assert words in said


async def test_a_list_that_is_refused() -> None:
    """Of pools and pods it holds readiness up; of the rest it is only told of."""
    for refused, holds in ((POOLS, True), (PODS, True), (OBJECTIVES, False), (LEGACY_POOLS, False)):
        api = FakeCluster()
        api.refused = {refused}
        api.put(POOLS, objects.pool())
        async with following(ALL, api) as scene:
            said = [f"{refused} are forbidden"]
            assert list(scene.cluster.trouble()) == said
            assert list(scene.cluster.missing()) == (said if holds else [])


async def test_trouble_after_everything_is_known_leaves_it_ready() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool())
    api.put(PODS, objects.pod("a"))
    async with following(CHAT, api) as scene:
        for informer in api.running:
            informer.trouble = "the API is away"
        assert list(scene.cluster.missing()) == []
        assert set(scene.cluster.trouble()) == {"the API is away"}
        assert scene.chat.names == ["a-rank-0"]


async def test_pods_alone_need_no_kind_of_ours() -> None:
    api = FakeCluster()
    api.put(PODS, objects.pod("a", labels={"app": "x", "t": "1"}), objects.pod("b", labels={"app": "y"}))
    selection = PodsAlone("prod", "mine", selectors.parse("app in (x,y),!gone"), (8000, 8001))
    async with following(selection, api) as scene:
        assert scene.world.views["prod/mine"].names == ["a-rank-0", "a-rank-1", "b-rank-0", "b-rank-1"]
        assert {one.resource for one in api.running} == {PODS}
        assert scene.world.specs["prod/mine"].group == ""
        assert list(scene.cluster.missing()) == []
        api.put(PODS, objects.pod("a", labels={"app": "x", "gone": ""}))
        await turns()
        assert scene.world.views["prod/mine"].names == ["b-rank-0", "b-rank-1"]


async def test_pods_alone_wait_for_their_list() -> None:
    api = FakeCluster(lists=False)
    async with following(PodsAlone("prod", "mine", selectors.parse("a"), (1,)), api) as scene:
        assert list(scene.cluster.missing()) == ["pods are not listed yet"]
        assert scene.world.views["prod/mine"].endpoints is None
        api.of(PODS)[0].relist()
        assert scene.world.views["prod/mine"].endpoints == []


async def test_many_pools_share_one_list_of_pods() -> None:
    api = FakeCluster()
    for name in ("a", "b", "empty"):
        api.put(POOLS, objects.pool(name))
    api.put(POOLS, objects.pool("a", "elsewhere"))
    api.put(PODS, objects.pod("pa", labels={"app": "a"}), objects.pod("pb", labels={"app": "b"}))
    api.put(PODS, objects.pod("far", namespace="elsewhere", labels={"app": "a"}))
    async with following(ALL, api) as scene:
        assert {key: view.names for key, view in scene.world.views.items()} == {
            "prod/a": ["pa-rank-0"],
            "prod/b": ["pb-rank-0"],
            "prod/empty": [],
            "elsewhere/a": ["far-rank-0"],
        }
        assert {key: view.times for key, view in scene.world.views.items()} == dict.fromkeys(
            scene.world.views, 1
        )
        assert [(one.namespace, one.labels) for one in api.of(PODS)] == [(None, "")]


async def test_many_pools_of_one_namespace_by_their_labels() -> None:
    api = FakeCluster()
    for name, namespace, team in (("a", "prod", "x"), ("b", "prod", "y"), ("c", "else", "x")):
        raw = objects.pool(name, namespace)
        raw["metadata"]["labels"] = {"team": team}
        api.put(POOLS, raw)
    selection = ManyPools("prod", selectors.parse("team=x"), selectors.parse("serves"))
    async with following(selection, api) as scene:
        assert set(scene.world.views) == {"prod/a"}
        assert [(one.namespace, one.labels) for one in api.of(PODS)] == [("prod", "serves")]


async def test_v1_wins_among_many_pools() -> None:
    api = FakeCluster()
    api.put(LEGACY_POOLS, objects.legacy_pool(port=7), objects.legacy_pool("old", port=7))
    api.put(POOLS, objects.pool())
    async with following(ALL, api) as scene:
        assert {key: spec.group for key, spec in scene.world.specs.items()} == {
            "prod/chat": POOL_GROUP,
            "prod/old": LEGACY_POOL_GROUP,
        }
        api.delete(POOLS, "prod/chat")
        assert scene.world.specs["prod/chat"].target_ports == (7,)
        assert [what for what, _ in scene.world.log] == ["came", "came", "changed"]


async def test_legacy_pools_wait_for_those_that_win() -> None:
    api = FakeCluster(lists=False)
    api.put(LEGACY_POOLS, objects.legacy_pool(port=7))
    api.put(POOLS, objects.pool())
    async with following(ALL, api) as scene:
        api.of(LEGACY_POOLS)[0].relist()
        assert scene.world.log == []
        api.of(POOLS)[0].relist()
        assert scene.world.specs["prod/chat"].group == POOL_GROUP


async def test_legacy_pools_alone_in_an_old_cluster() -> None:
    api = FakeCluster()
    api.unknown = {POOLS}
    api.put(LEGACY_POOLS, objects.legacy_pool(port=7))
    async with following(ALL, api) as scene:
        assert set(scene.world.views) == {"prod/chat"}
        assert list(scene.cluster.missing()) == []


async def test_objectives_of_the_pool() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool())
    api.put(OBJECTIVES, objects.objective("gold", 9), objects.objective("else", pool="other"))
    api.put(OBJECTIVES, objects.objective("far", namespace="elsewhere"))
    api.put(OBJECTIVES, objects.objective("group", group="llm-d.ai"))
    api.objects[OBJECTIVES]["prod/group"] = objects.objective("group", group="llm-d.ai") | {
        "spec": {"poolRef": {"name": "chat", "group": LEGACY_POOL_GROUP}}
    }
    old = "inference.networking.x-k8s.io"
    api.put(
        LEGACY_OBJECTIVES, objects.objective("gold", 1, group=old), objects.objective("free", -1, group=old)
    )
    for selection in (CHAT, ALL):
        async with following(selection, api) as scene:
            assert scene.chat.objectives == {"gold": Objective("gold", 9), "free": Objective("free", -1)}
            api.delete(OBJECTIVES, "prod/gold")
            assert scene.chat.objectives["gold"].priority == 1
            api.put(OBJECTIVES, objects.objective("gold", 5, pool="other"))
            assert set(scene.chat.objectives) == {"free"}
            api.put(OBJECTIVES, objects.objective("gold", 9))


async def test_rewrites_of_the_pool() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool())
    api.put(REWRITES, objects.rewrite("r"), objects.rewrite("s", pool="other"))
    async with following(CHAT, api) as scene:
        assert [(one.name, one.rules[0].targets[0].model) for one in scene.chat.rewrites] == [("r", "b")]
        api.put(REWRITES, objects.rewrite("r", to="c"))
        assert [one.rules[0].targets[0].model for one in scene.chat.rewrites] == ["c"]


async def test_bad_objects_are_said_and_the_rest_is_served() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool(), objects.pool("bad", targetPorts=[{"number": 0}]))
    api.put(OBJECTIVES, objects.objective("gold"), objects.objective("bad", "high"))  # type: ignore[arg-type]
    api.put(REWRITES, objects.rewrite("r"), objects.rewrite("bad", to=""))
    api.put(PODS, objects.pod("a", annotations={ACTIVE_PORTS: "x", METRICS_PORT: "y"}))
    async with following(ALL, api) as scene:
        assert set(scene.world.views) == {"prod/chat"}
        assert scene.chat.names == ["a-rank-0"]
        assert set(scene.chat.objectives) == {"gold"}
        assert [one.name for one in scene.chat.rewrites] == ["r"]
        said = {(kind, name, reason) for kind, name, reason, _ in scene.warnings.said}
        assert said == {
            ("InferencePool", "bad", "InvalidInferencePool"),
            ("InferenceObjective", "bad", "InvalidInferenceObjective"),
            ("InferenceModelRewrite", "bad", "InvalidInferenceModelRewrite"),
            ("Pod", "a", "InvalidAnnotation"),
        }
        (pool,) = (message for kind, _, _, message in scene.warnings.said if kind == "InferencePool")
        assert pool == "spec.targetPorts[0].number: 0 is not a port; write a number from 1 to 65535"
        count = len(scene.warnings.said)
        assert count == 5
        for informer in list(api.running):
            informer.relist()
        assert len(scene.warnings.said) == count


async def test_an_object_that_turns_bad_keeps_its_last_good_form() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool())
    api.put(PODS, objects.pod("a"))
    api.put(OBJECTIVES, objects.objective("gold", 3))
    async with following(CHAT, api) as scene:
        api.put(POOLS, objects.pool(targetPorts=[]))
        api.put(OBJECTIVES, objects.objective("gold", "high"))  # type: ignore[arg-type]
        for informer in list(api.running):
            informer.relist()
        await turns()
        assert scene.world.log == [("came", "prod/chat")]
        assert scene.chat.names == ["a-rank-0"]
        assert scene.chat.objectives["gold"].priority == 3
        assert list(scene.cluster.missing()) == []
        api.put(POOLS, objects.pool(ports=(9000,)))
        await turns()
        assert [one.port for one in scene.chat.endpoints or ()] == [9000]


async def test_a_pool_that_was_bad_from_the_start_is_said_when_asked_what_is_missing() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool(targetPorts=[]))
    async with following(CHAT, api) as scene:
        (said,) = scene.cluster.missing()
        assert said.startswith("InferencePool prod/chat cannot be used: spec.targetPorts: expected")
        api.put(POOLS, objects.pool())
        await turns()
        assert list(scene.cluster.missing()) == []


async def test_a_relist_tells_what_went_unseen() -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool(), objects.pool("b"))
    api.put(PODS, objects.pod("a"), objects.pod("b"))
    async with following(ALL, api) as scene:
        del api.objects[PODS]["prod/a"], api.objects[POOLS]["prod/b"]
        for informer in list(api.running):
            informer.relist()
        assert scene.chat.names == ["b-rank-0"]
        assert set(scene.world.views) == {"prod/chat"}


async def test_pools_have_a_limit_and_those_left_out_follow_when_others_go() -> None:
    api = FakeCluster()
    for n in range(MAX_POOLS + 2):
        api.put(POOLS, objects.pool(f"p{n:05}"))
    async with following(ALL, api) as scene:
        assert len(scene.world.views) == MAX_POOLS
        left_out = api.objects[POOLS].keys() - scene.world.views.keys()
        gone = next(key for key in scene.world.views)
        api.delete(POOLS, gone)
        assert len(scene.world.views) == MAX_POOLS
        assert len(left_out & scene.world.views.keys()) == 1
        (still,) = left_out - scene.world.views.keys()
        api.delete(POOLS, still)
        api.delete(POOLS, next(key for key in scene.world.views))
        assert len(scene.world.views) == MAX_POOLS - 1


async def test_endpoints_of_a_pool_have_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    api = FakeCluster()
    api.put(POOLS, objects.pool(ports=tuple(range(1, 9))))
    api.put(PODS, *(objects.pod(f"p{n}") for n in range(MAX_ENDPOINTS // 8 + 1)))
    async with following(CHAT, api) as scene:
        assert len(scene.chat.endpoints or ()) == MAX_ENDPOINTS
        assert f"only {MAX_ENDPOINTS} are used" in caplog.text


async def test_an_empty_pool_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "epp.kube")
    api = FakeCluster()
    api.put(POOLS, objects.pool())
    api.put(PODS, objects.pod("a"))
    async with following(CHAT, api) as scene:
        assert "endpoint" not in caplog.text
        for _ in range(2):  # the second change of a pool that is empty is no news
            api.put(PODS, objects.pod("a", ready=False))
            api.put(POOLS, objects.pool(ports=(8001,)))
            await turns()
        assert scene.chat.names == []
        assert caplog.text.count("pool prod/chat has no endpoint") == 1
        api.put(PODS, objects.pod("a"))
        await turns()
        assert "pool prod/chat has endpoints: 1" in caplog.text


class PickyWorld(NotingWorld):
    """Cannot serve every pool."""

    def __init__(self, *wrong: str) -> None:
        super().__init__()
        self.wrong = set(wrong)

    def pool_came(self, pool: PoolSpec) -> NotingView:
        if pool.name in self.wrong:
            raise ValueError("its secret is missing")
        return super().pool_came(pool)


async def test_a_pool_that_cannot_be_served_holds_up_no_other() -> None:
    api = FakeCluster()
    api.put(POOLS, *(objects.pool(name) for name in ("a", "b", "c")))
    api.put(PODS, *(objects.pod(f"{name}-0", labels={"app": name}) for name in ("a", "b", "c")))
    world = PickyWorld("a", "b")
    async with following(ALL, api, world=world) as scene:
        assert {key: view.names for key, view in world.views.items()} == {"prod/c": ["c-0-rank-0"]}
        assert sorted(scene.warnings.said) == [
            ("InferencePool", name, "PoolNotServed", "its secret is missing") for name in ("a", "b")
        ]
        world.wrong.discard("a")
        await turns()  # it is tried again without any change in the cluster
        assert world.views["prod/a"].names == ["a-0-rank-0"]
        api.delete(POOLS, "prod/b")
        world.wrong.clear()
        await turns()
        assert set(world.views) == {"prod/a", "prod/c"}
        assert world.log.count(("went", "prod/b")) == 0


class BrokenView(NotingView):
    def set_endpoints(self, specs: Sequence[EndpointSpec]) -> None:
        if self.broken:
            raise RuntimeError("a bug")
        super().set_endpoints(specs)

    broken = True


class BrokenWorld(NotingWorld):
    def pool_came(self, pool: PoolSpec) -> NotingView:
        view = super().pool_came(pool)
        if pool.name == "a":
            view = self.views[pool.key] = BrokenView()
        return view


async def test_a_pool_that_fails_to_take_its_endpoints_keeps_them_from_no_other() -> None:
    api = FakeCluster()
    api.put(POOLS, *(objects.pool(name) for name in ("a", "b", "c")))
    api.put(PODS, *(objects.pod(f"{name}-0", labels={"app": name}) for name in ("a", "b", "c")))
    async with following(ALL, api, world=BrokenWorld()) as scene:
        a = scene.world.views["prod/a"]
        assert [scene.world.views[f"prod/{name}"].names for name in ("b", "c")] == [
            ["b-0-rank-0"],
            ["c-0-rank-0"],
        ]
        assert isinstance(a, BrokenView)
        a.broken = False
        api.put(PODS, objects.pod("b-1", labels={"app": "b"}))
        await turns()
        assert a.names == ["a-0-rank-0"]
