"""Many pools after any history of pools and pods, some of which cannot be served for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from epp.domain.pool import PoolSpec
from epp.kube.cluster import Cluster
from epp.kube.pools import LEGACY_POOLS, POOLS
from epp.kube.resource import PODS
from epp.kube.selection import ManyPools
from tests.fakes.informers import FakeCluster, NotedWarnings, NotingView, NotingWorld
from tests.unit.kube import objects

NAMES, APPS = ("a", "b", "c"), ("x", "y")
names, apps = st.sampled_from(NAMES), st.sampled_from(APPS)
steps = st.one_of(
    st.tuples(st.just("pool"), names, apps),
    st.tuples(st.just("legacy"), names, st.just("")),
    st.tuples(st.just("no pool"), names, st.just("")),
    st.tuples(st.just("no legacy"), names, st.just("")),
    st.tuples(st.just("pod"), names, apps),
    st.tuples(st.just("no pod"), names, st.just("")),
    st.tuples(st.just("refuse"), names, st.just("")),
    st.tuples(st.just("serve"), names, st.just("")),
    st.tuples(st.just("turn"), names, st.just("")),
    st.tuples(st.just("relist"), names, st.just("")),
)


class PickyWorld(NotingWorld):
    def __init__(self) -> None:
        super().__init__()
        self.wrong: set[str] = set()

    def pool_came(self, pool: PoolSpec) -> NotingView:
        if pool.name in self.wrong:
            raise ValueError("not now")
        return super().pool_came(pool)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=40))
def test_in_the_end_it_is_as_if_it_had_always_been_so(history: Sequence[tuple[str, str, str]]) -> None:
    asyncio.run(_check(history))


async def _check(history: Sequence[tuple[str, str, str]]) -> None:
    api, world = FakeCluster(), PickyWorld()
    cluster = Cluster(api.follow, ManyPools(), world, NotedWarnings(), added_s=0.0, again_s=0.0)
    following = asyncio.create_task(cluster.run())
    await _turns()
    pools: dict[str, str] = {}
    legacy: set[str] = set()
    pods: dict[str, str] = {}
    for what, name, app in history:
        key = f"prod/{name}"
        match what:
            case "pool":
                pools[name] = app
                api.put(POOLS, objects.pool(name, labels={"app": app}))
            case "legacy":
                legacy.add(name)
                api.put(LEGACY_POOLS, objects.legacy_pool(name))
            case "no pool" if pools.pop(name, None):
                api.delete(POOLS, key)
            case "no legacy" if name in legacy:
                legacy.discard(name)
                api.delete(LEGACY_POOLS, key)
            case "pod":
                pods[name] = app
                api.put(PODS, objects.pod(name, labels={"app": app}))
            case "no pod" if pods.pop(name, None):
                api.delete(PODS, key)
            case "refuse":
                world.wrong.add(name)
            case "serve":
                world.wrong.discard(name)
            case "turn":
                await _turns()
            case "relist":
                for informer in tuple(api.running):
                    informer.relist()
    world.wrong.clear()
    await _turns()
    # A legacy pool selects by its own name here, which is no pod's label.
    wanted = {
        f"prod/{name}": sorted(f"{pod}-rank-0" for pod, app in pods.items() if app == pools.get(name))
        for name in {*pools, *legacy}
    }
    assert {key: view.names or [] for key, view in world.views.items()} == wanted
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
