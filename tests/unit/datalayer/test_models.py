"""Which models are served: the filter, the certainty, and the probe against real servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.datalayer.models import CERTAIN_S, SOURCE, ModelProbe, ModelProber
from epp.datalayer.serving import Masks, certainly_unserved, model_names, serving
from epp.domain.views import Clock
from tests.builders import snapshot
from tests.unit.datalayer.engines_up import VLLM, Errors, Watched, http, running, up

ALL = np.arange(3)


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


@asynccontextmanager
async def asked(
    store: Watched, *, errors: Errors | None = None, clock: Clock = time.monotonic
) -> AsyncIterator[ModelProbe]:
    """The store's endpoints, by a prober of their own."""
    prober = ModelProber(clock=clock, rng=Random(1))
    probe = prober.join(store, errors=errors)
    async with running(prober.run):
        yield probe


def listed(*names: str) -> bytes:
    return json.dumps(
        {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
    ).encode()


name_lists = st.lists(st.one_of(st.none(), st.lists(st.sampled_from("abc"))), min_size=1, max_size=6)


@given(name_lists, st.sampled_from("abcd"), st.data())
def test_the_filter_drops_those_that_are_known_not_to_serve(
    held: list[list[str] | None], model: str, data: st.DataObject
) -> None:
    pool = snapshot(len(held), models=held)
    rows = np.asarray(data.draw(st.lists(st.integers(0, len(held) - 1), unique=True)), dtype=np.intp)
    expected = [names is None or model in names for names in (held[row] for row in rows)]
    masks = Masks()
    other = snapshot(len(held), models=[["a"]] * len(held))
    for _ in range(2):  # the second answer is remembered
        assert serving(pool, model, rows).tolist() == expected
        assert masks.serving(pool, model, rows).tolist() == expected
    assert masks.serving(other, "a", rows).all()
    assert masks.serving(pool, model, rows).tolist() == expected
    assert certainly_unserved(pool, model, rows) == (len(rows) > 0 and not any(expected))


def test_ids_of_a_list() -> None:
    assert model_names(listed("base", "sql-adapter")) == {"base", "sql-adapter"}
    assert model_names(b'{"data": []}') == frozenset()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"data": [{"name": "a"}]}', b'{"data": [{"id": 5}]}', b"\xff"]
)
def test_what_is_no_list(body: bytes) -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        model_names(body)


def test_more_models_than_are_kept() -> None:
    with pytest.raises(ValueError, match="more than"):
        model_names(listed(*(str(i) for i in range(10_001))))


async def test_lists_are_fetched_from_the_serving_port() -> None:
    async with up(lambda n: http(listed("base", "sql"))) as a, up(lambda n: http(listed("other"))) as b:
        store = Watched()
        store.put(a.port, b.port)
        async with asked(store):
            await store.news.get()
            await store.news.get()
        pool = store.snapshot
        assert pool.models == ({"base", "sql"}, {"other"})
        assert a.requests[0].startswith(b"GET /v1/models HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "answer",
    [http(b"no", 401), http(VLLM % 1), None, b"rubbish\r\n\r\n", http(b'{"data":' + b"[" * 500_000)],
    ids=["401", "not-json", "closed", "not-http", "deep"],
)  # fmt: skip
async def test_a_server_that_does_not_tell_is_not_filtered(answer: bytes | None) -> None:
    async with up(lambda n: answer) as silent, up(lambda n: http(listed("other"))) as other:
        store, errors = Watched(), Errors()
        store.put(silent.port, other.port)
        async with asked(store, errors=errors):
            while await store.news.get() != "e1":
                pass
            assert await errors.polls.get() == SOURCE
        pool = store.snapshot
        assert pool.models == (None, {"other"})
        assert serving(pool, "base", np.arange(2)).tolist() == [True, False]
        assert not certainly_unserved(pool, "base", np.arange(2))


async def test_certainty_needs_fresh_lists_and_asks_for_them() -> None:
    now = 100.0
    lists = [listed("base"), listed("base", "new")]
    async with up(lambda n: http(lists[min(n, 1)])) as server:
        store = Watched()
        store.put(server.port)
        rows = np.arange(1)
        async with asked(store, clock=lambda: now) as probe:
            await store.news.get()
            assert probe.certainly_unserved(store.snapshot, "new", rows, now)
            assert not probe.certainly_unserved(store.snapshot, "base", rows, now)
            now += CERTAIN_S + 0.1
            assert not probe.certainly_unserved(store.snapshot, "new", rows, now)
            await store.news.get()
            assert not probe.certainly_unserved(store.snapshot, "new", rows, now)
            assert probe.certainly_unserved(store.snapshot, "nobody's", rows, now)
        assert len(server.requests) == 2


async def test_who_never_told_is_asked_again_soon() -> None:
    async with up(lambda n: http(listed("base")) if n == 3 else http(b"", 503)) as server:
        store, errors = Watched(), Errors()
        store.put(server.port)
        prober = ModelProber(rng=Random(1), retry_s=0.001)
        prober.join(store, errors=errors, interval_s=1000.0)
        async with running(prober.run):
            while store.snapshot.models != (frozenset({"base"}),):
                await store.news.get()
        assert len(server.requests) == 4
        assert errors.total == 3


async def test_a_list_that_cannot_be_renewed_is_believed_for_a_while_only() -> None:
    now = 0.0
    async with up(lambda n: http(listed("base")) if n == 0 else http(b"", 500)) as server:
        store, errors = Watched(), Errors()
        store.put(server.port)
        async with asked(store, errors=errors, clock=lambda: now) as probe:
            await store.news.get()
            now += 2 * probe.interval_s
            probe.hurry(now)
            await errors.polls.get()
            assert store.snapshot.models == ({"base"},)
            now += 2 * probe.interval_s
            probe.hurry(now)
            await errors.polls.get()
            await store.news.get()
            assert store.snapshot.models == (None,)


async def test_many_pools_are_asked_by_one_prober_and_each_knows_its_own() -> None:
    async with (
        up(lambda n: http(listed("base"))) as a,
        up(lambda n: http(listed("other"))) as b,
        up(lambda n: http(listed("late"))) as late,
    ):
        first, second = Watched(), Watched()
        first.put(a.port)
        prober = ModelProber(rng=Random(1))
        ours, theirs = prober.join(first), prober.join(second)
        rows = np.arange(1)
        async with running(prober.run):
            await first.news.get()
            second.put(b.port)
            await second.news.get()
            assert ours.certainly_unserved(first.snapshot, "other", rows, time.monotonic())
            assert theirs.certainly_unserved(second.snapshot, "base", rows, time.monotonic())
            theirs.leave()
            theirs.leave()
            second.put(late.port)
            theirs.hurry(time.monotonic() + CERTAIN_S)
            ours.hurry(time.monotonic() + CERTAIN_S)
            await first.news.get()
        assert second.news.empty()
        assert late.requests == []
        assert second.on_pool_change == []


async def test_endpoints_that_do_not_answer_leave_room_for_other_pools() -> None:
    never = asyncio.Event()

    async def hang(n: int) -> bytes | None:
        await never.wait()
        return None

    async with up(hang) as silent, up(lambda n: http(listed("base"))) as quick:
        stuck, store = Watched(), Watched()
        stuck.put(*[silent.port] * 20)
        prober = ModelProber(rng=Random(1))
        prober.join(stuck)
        async with running(prober.run):
            while silent.connections < 20:
                await asyncio.sleep(0.001)
            store.put(quick.port)
            prober.join(store)
            await store.news.get()
        assert stuck.news.empty()
        never.set()


def test_a_large_pool_is_asked_more_rarely() -> None:
    store = Watched()
    probe = ModelProber().join(store)
    assert probe.interval_s == 10.0
    store.put(*range(1, 5001))
    assert probe.interval_s == 50.0
