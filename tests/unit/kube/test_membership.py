"""Which pods are in which pools: after any history as if worked out anew, and all of it told."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from epp.domain.endpoint import EndpointSpec
from epp.domain.pool import PoolSpec
from epp.kube.membership import Membership
from epp.kube.pods import Pod, endpoints
from epp.kube.selectors import parse

names = st.sampled_from("abc")
namespaces = st.sampled_from(["x", "y"])
texts = st.sampled_from(["app=a", "app=b", "app=a,tier=1", "tier in (1,2)", "!tier", "app,tier=2", ""])
labels = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["a", "b", "1", "2"]))
ports = st.sampled_from([(80,), (80, 81)])
pods = st.builds(
    Pod,
    namespaces,
    names,
    labels,
    st.sampled_from(["10.0.0.1", "10.0.0.2", ""]),
    st.booleans(),
    st.sampled_from([None, None, "81", "bad"]),
)
pools = st.builds(PoolSpec, namespaces, names, texts, ports)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.membership = Membership(self.touched, lambda pod, mistake: None)
        self.pods: dict[str, Pod] = {}
        self.pools: dict[str, PoolSpec] = {}
        self.told: dict[str, Sequence[EndpointSpec]] = {}
        self.dirty: dict[str, bool] = {}

    def touched(self, pool: str, urgent: bool) -> None:
        self.dirty[pool] = self.dirty.get(pool, False) or urgent

    @rule(pod=pods)
    def put(self, pod: Pod) -> None:
        self.pods[pod.key] = pod
        self.membership.put_pod(pod)

    @rule(namespace=namespaces, name=names)
    def remove(self, namespace: str, name: str) -> None:
        self.pods.pop(f"{namespace}/{name}", None)
        self.membership.remove_pod(f"{namespace}/{name}")

    @rule(found=st.lists(pods, max_size=6))
    def relist(self, found: list[Pod]) -> None:
        self.pods = {pod.key: pod for pod in found}
        self.membership.replace_pods(self.pods)

    @rule(found=st.lists(pools, max_size=4), gone=st.sets(st.tuples(namespaces, names), max_size=3))
    def set_pools(self, found: list[PoolSpec], gone: set[tuple[str, str]]) -> None:
        came = {pool.key: pool for pool in found}
        went = {"/".join(one) for one in gone} - came.keys()
        for key in went:
            self.pools.pop(key, None)
            self.told.pop(key, None)
        self.pools |= came
        self.membership.set_pools(list(came.values()), went)
        for key in went:
            self.dirty.pop(key, None)

    @invariant()
    def everything_is_told(self) -> None:
        for key, urgent in self.dirty.items():
            now = self.membership.endpoints(key)
            before = self.told.get(key, ())
            assert urgent or all(one in now for one in before), "what is only added takes nothing away"
            self.told[key] = now
        self.dirty.clear()
        for key, pool in self.pools.items():
            expected = [
                one
                for pod in self.pods.values()
                if pod.namespace == pool.namespace and parse(pool.selector).matches(pod.labels)
                for one in endpoints(pod, pool)
            ]
            assert sorted(self.told[key], key=str) == sorted(expected, key=str)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_thousand_pools_that_differ_in_one_label() -> None:
    touched: list[str] = []
    membership = Membership(lambda pool, urgent: touched.append(pool), lambda pod, mistake: None)
    membership.set_pools(
        [PoolSpec("x", f"p{n}", f"app=vllm,model=m{n},team=t", (8000,)) for n in range(1000)]
    )
    touched.clear()
    for n in range(4000):
        pod_labels = {"app": "vllm", "model": f"m{n % 1000}", "team": "t", "hash": str(n)}
        membership.put_pod(Pod("x", f"pod{n}", pod_labels, "10.0.0.1", True))
    assert touched == [f"x/p{n % 1000}" for n in range(4000)]
    assert all(len(membership.endpoints(f"x/p{n}")) == 4 for n in range(1000))


def test_what_is_wrong_with_a_pods_annotations_is_said_once() -> None:
    said: list[tuple[str, str]] = []
    membership = Membership(lambda pool, urgent: None, lambda pod, mistake: said.append((pod.key, mistake)))
    membership.set_pools([PoolSpec("x", "p", "app=a", (80,))])
    bad = Pod("x", "a", {"app": "a"}, "10.0.0.1", True, "bad")
    for ready in (True, False, True):
        membership.put_pod(Pod("x", "a", {"app": "a"}, "10.0.0.1", ready, "bad"))
    membership.replace_pods({"x/a": bad})
    assert [key for key, _ in said] == ["x/a"]
    membership.put_pod(Pod("x", "a", {"app": "a"}, "10.0.0.1", True, "worse"))
    assert len(said) == 2
    membership.remove_pod("x/a")
    membership.put_pod(bad)
    assert len(said) == 3
    membership.put_pod(Pod("x", "b", {"app": "other"}, "10.0.0.1", True, "bad"))
    assert len(said) == 3
