"""The store: slots, identities, what a snapshot shows, and when a new one is built."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.datalayer.load import Load
from epp.datalayer.outliers import Outliers
from epp.datalayer.store import SLOT_REST_S, Store
from epp.domain.endpoint import EndpointSpec
from epp.domain.snapshot import NEVER


class Seen:
    """Keeps which slots it was told to forget."""

    def __init__(self) -> None:
        self.forgotten: list[int] = []

    def forget(self, slot: int) -> None:
        self.forgotten.append(slot)


def spec(name: str, address: str = "10.0.0.1", port: int = 8000, **more: object) -> EndpointSpec:
    return EndpointSpec(name, address, port, **more)  # type: ignore[arg-type]


def test_before_discovery_spoke_the_pool_is_empty_and_not_synced() -> None:
    store = Store()
    assert len(store.snapshot) == 0
    assert not store.synced
    store.set_endpoints([], 1.0)
    assert store.synced


def test_new_endpoints_are_idle_never_scraped_and_available() -> None:
    store = Store(health=Outliers(Random(1)))
    store.set_endpoints([spec("a"), spec("b", "::1", 9000, metrics_port=9001)], 5.0)
    snapshot = store.snapshot
    assert [e.key for e in snapshot.endpoints] == ["default/a", "default/b"]
    assert [e.metrics_port for e in snapshot.endpoints] == [8000, 9001]
    assert snapshot.scraped_at.tolist() == [NEVER, NEVER]
    assert snapshot.available.all()
    assert not snapshot.fresh(5.0).any()
    assert snapshot.models == (None, None)
    assert store.by_authority("[::1]:9000") is snapshot.endpoints[1]


def test_a_report_shows_in_the_next_snapshot_and_not_in_the_last() -> None:
    store = Store()
    store.set_endpoints([spec("a"), spec("b", "10.0.0.2")], 0.0)
    before = store.snapshot
    load = Load(3.0, 4.0, 0.5, 16, 1000, 4, frozenset({"x"}), frozenset({"y"}))
    store.report(before.endpoints[1], load, 7.0)
    after = store.snapshot
    assert before.waiting.tolist() == [0.0, 0.0]
    assert after.waiting.tolist() == [0.0, 3.0]
    assert after.running.tolist() == [0.0, 4.0]
    assert after.kv_used.tolist() == [0.0, 0.5]
    assert after.block_size.tolist() == [0, 16]
    assert after.num_blocks.tolist() == [0, 1000]
    assert after.lora_max.tolist() == [0, 4]
    assert after.lora_running == (frozenset(), {"x"})
    assert after.lora_waiting == (frozenset(), {"y"})
    assert after.scraped_at.tolist() == [NEVER, 7.0]
    assert after.version > before.version
    assert store.snapshot is after


@pytest.mark.parametrize(
    "name", ["waiting", "running", "kv_used", "scraped_at", "slots", "block_size", "available"]
)
def test_columns_are_read_only(name: str) -> None:
    store = Store(health=Outliers(Random(1)))
    store.set_endpoints([spec("a")], 0.0)
    with pytest.raises(ValueError, match="read-only"):
        getattr(store.snapshot, name)[0] = 1


def test_what_was_not_reported_keeps_its_value_and_a_lie_does_not_count_as_news() -> None:
    store = Store()
    store.set_endpoints([spec("a")], 0.0)
    endpoint = store.endpoints[0]
    store.report(endpoint, Load(3.0, 4.0, 0.5), 1.0)
    store.report(endpoint, Load(running=9.0, kv_used=0.1, lies=("waiting",)), 2.0)
    snapshot = store.snapshot
    assert (snapshot.waiting[0], snapshot.running[0], snapshot.scraped_at[0]) == (3.0, 9.0, 1.0)
    store.report(endpoint, Load(), 3.0)
    assert store.snapshot.scraped_at[0] == 1.0


def test_an_endpoint_keeps_its_slot_and_load_while_others_come_and_go() -> None:
    seen = Seen()
    store = Store(observers=[seen])
    store.set_endpoints([spec("a"), spec("b", "10.0.0.2"), spec("c", "10.0.0.3")], 0.0)
    c = store.endpoints[2]
    store.report(c, Load(waiting=5.0), 1.0)
    seen.forgotten.clear()
    store.set_endpoints([spec("c", "10.0.0.3", labels={"role": "decode"}), spec("d", "10.0.0.4")], 2.0)
    assert seen.forgotten == [0, 1, 3]
    snapshot = store.snapshot
    assert [(e.name, e.slot) for e in snapshot.endpoints] == [("c", 2), ("d", 3)]
    assert snapshot.waiting.tolist() == [5.0, 0.0]
    assert snapshot.endpoints[0].labels == {"role": "decode"}
    store.report(c, Load(waiting=6.0), 3.0)  # the same server, though its labels changed
    assert store.snapshot.waiting.tolist() == [6.0, 0.0]


def test_another_address_is_another_server() -> None:
    store = Store()
    store.set_endpoints([spec("a")], 0.0)
    old = store.endpoints[0]
    store.report(old, Load(waiting=5.0), 1.0)
    store.set_endpoints([spec("a", "10.0.0.9")], 2.0)
    assert store.snapshot.waiting.tolist() == [0.0]
    store.report(old, Load(waiting=8.0), 3.0)
    assert store.snapshot.waiting.tolist() == [0.0]
    assert store.by_authority("10.0.0.1:8000") is None


def test_a_freed_slot_rests_and_is_forgotten_again_when_given_away() -> None:
    seen = Seen()
    store = Store(observers=[seen])
    store.set_endpoints([spec("a")], 0.0)
    store.report(store.endpoints[0], Load(waiting=5.0), 0.0)
    store.set_models(store.endpoints[0], frozenset({"m"}), 0.0)
    store.set_endpoints([spec("b")], 1.0)
    assert store.endpoints[0].slot == 1
    seen.forgotten.clear()
    store.set_endpoints([spec("b"), spec("c", "10.0.0.3")], 1.0 + SLOT_REST_S)
    assert seen.forgotten == [0]
    snapshot = store.snapshot
    assert [(e.name, e.slot) for e in snapshot.endpoints] == [("c", 0), ("b", 1)]
    assert snapshot.waiting.tolist() == [0.0, 0.0]
    assert snapshot.models == (None, None)


def test_models_are_known_until_they_are_not_and_grow_by_adapters_that_run() -> None:
    store = Store()
    store.set_endpoints([spec("a"), spec("b", "10.0.0.2")], 0.0)
    a, b = store.endpoints
    store.set_models(a, frozenset({"base"}), 1.0)
    store.report(a, Load(waiting=0.0, lora_running=frozenset({"sql"}), lora_waiting=frozenset()), 2.0)
    store.report(b, Load(waiting=0.0, lora_running=frozenset({"sql"}), lora_waiting=frozenset()), 2.0)
    assert store.snapshot.models == ({"base", "sql"}, None)
    store.set_models(a, None, 3.0)
    assert store.snapshot.models == (None, None)


def test_staleness_follows_the_scrape_interval() -> None:
    store = Store()
    assert store.snapshot.stale_after_s == 0.2
    store.set_scrape_interval(0.05)
    assert store.snapshot.stale_after_s == 0.2
    store.set_scrape_interval(0.5)
    assert store.snapshot.stale_after_s == 1.5


def test_an_avoided_endpoint_shows_and_a_change_of_the_pool_keeps_it() -> None:
    health = Outliers(Random(1))
    store = Store(health=health)
    store.set_endpoints([spec("a"), spec("b", "10.0.0.2"), spec("c", "10.0.0.3")], 0.0)
    health.failure(1, 0.0)
    assert store.snapshot.available.tolist() == [True, False, True]
    store.set_endpoints([spec("b", "10.0.0.2"), spec("c", "10.0.0.3")], 1.0)
    assert store.snapshot.available.tolist() == [False, True]
    health.tick(1e9)
    assert store.snapshot.available.all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), unique=True), min_size=1, max_size=8), st.data())
def test_rows_always_agree_with_slots(pools: list[list[int]], data: st.DataObject) -> None:
    store = Store(observers=[Seen()], health=Outliers(Random(1)))
    known: dict[str, float] = {}
    now = 0.0
    for pool in pools:
        now += data.draw(st.sampled_from([0.1, SLOT_REST_S + 1]))
        store.set_endpoints([spec(f"e{i}", f"10.0.0.{i}") for i in pool], now)
        known = {name: value for name, value in known.items() if int(name[1:]) in pool}
        for endpoint in store.endpoints:
            value = float(data.draw(st.integers(0, 9)))
            store.report(endpoint, Load(waiting=value), now)
            known[endpoint.name] = value
        snapshot = store.snapshot
        assert {e.name for e in snapshot.endpoints} == {f"e{i}" for i in pool}
        assert len(set(snapshot.slots.tolist())) == len(pool)
        assert [e.slot for e in snapshot.endpoints] == snapshot.slots.tolist() == sorted(snapshot.slots)
        assert {e.name: w for e, w in zip(snapshot.endpoints, snapshot.waiting, strict=True)} == known
        assert all(len(c) == len(pool) for c in (snapshot.kv_used, snapshot.lora_max, snapshot.models))
        assert snapshot.available.dtype == np.bool_
        assert len(snapshot.available) == len(pool)


def test_whoever_follows_the_pool_is_told_when_it_changes_and_of_nothing_else() -> None:
    store = Store()
    told: list[int] = []

    def once() -> None:
        told.append(len(store))
        store.on_pool_change.remove(once)

    store.on_pool_change += [once, lambda: told.append(-len(store))]
    store.set_endpoints([spec("a")], 0.0)
    store.set_endpoints([spec("a")], 1.0)
    store.report(store.endpoints[0], Load(1.0), 2.0)
    assert told == [1, -1]
    store.set_endpoints([spec("a", labels={"x": "y"}), spec("b", "10.0.0.2")], 3.0)
    assert told == [1, -1, -2]


def test_models_are_known_without_a_snapshot_and_counted_when_they_change() -> None:
    store = Store()
    store.set_endpoints([spec("a"), spec("b", "10.0.0.2")], 0.0)
    a, b = store.endpoints
    assert (store.models(), store.models_version) == (frozenset(), 0)
    store.set_models(a, frozenset({"base"}), 1.0)
    store.set_models(a, frozenset({"base"}), 1.0)
    store.set_models(b, frozenset({"other"}), 1.0)
    assert (store.models(), store.models_version) == ({"base", "other"}, 2)
    store.report(a, Load(lora_running=frozenset({"sql"})), 2.0)
    store.report(a, Load(2.0), 3.0)
    assert (store.models(), store.models_version) == ({"base", "sql", "other"}, 3)
    store.set_endpoints([spec("b", "10.0.0.2")], 4.0)
    assert store.models() == {"other"}
    assert store.models_version > 3
