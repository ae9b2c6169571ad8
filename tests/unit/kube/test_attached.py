"""Objectives and rewrites by pool: after any history of both groups as if read anew."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from epp.config.objectives import OBJECTIVE
from epp.config.rewrites import REWRITE
from epp.domain.pool import POOL_GROUP
from epp.kube.attached import GROUPS, Attached, PoolId
from tests.fakes.informers import NotedWarnings
from tests.unit.kube import objects

CHAT = PoolId("prod", POOL_GROUP, "chat")
changes = st.lists(
    st.tuples(
        st.sampled_from([0, 1]),
        st.sampled_from("ab"),
        st.sampled_from(["chat", "other", None]),
        st.integers(-1, 1) | st.just("bad"),
    ),
    max_size=30,
)


@given(changes)
def test_any_history(history: list[tuple[int, str, str | None, Any]]) -> None:
    told: set[PoolId] = set()
    known: dict[str, Any] = {}
    good: list[dict[str, tuple[str, int]]] = [{}, {}]

    def listen(pools: Collection[PoolId]) -> None:
        told.update(pools)

    attached = Attached(OBJECTIVE, "inferenceobjectives", listen, NotedWarnings())
    for group, name, pool, priority in history:
        key = f"prod/{name}"
        if pool is None:
            good[group].pop(name, None)
            attached.sources[group].removed(key)
        else:
            if priority != "bad":
                good[group][name] = (pool, priority)
            raw = objects.objective(name, priority, pool, group=GROUPS[group])
            attached.sources[group].changed(key, raw)
        expected = {
            name: priority for name, (pool, priority) in (good[1] | good[0]).items() if pool == "chat"
        }
        now = {one.name: one.priority for one in attached.of(CHAT)}
        assert now == expected
        if now != known:
            assert CHAT in told
        known = now
        told.clear()


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "poolRef", "priority", "rules", "targets", "modelRewrite", "annotations"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "kind", "apiVersion"]), json))
def test_any_object_is_taken_or_said_to_be_bad(raw: dict[str, Any]) -> None:
    for kind in (OBJECTIVE, REWRITE):
        warnings = NotedWarnings()
        attached = Attached(kind, "x", lambda pools: None, warnings)
        source = attached.sources[0]
        told = raw.get("metadata")
        metadata = {**(told if isinstance(told, dict) else {}), "name": "a", "namespace": "prod"}
        source.changed("prod/a", {**objects.rewrite("a"), **raw, "metadata": metadata})
        assert (not source.values) == bool(warnings.said)
        Attached(kind, "x", lambda pools: None, warnings).sources[0].replaced(
            {"prod/a": objects.objective("a")}
        )
