"""What an informer asks of the API and what it tells its watcher, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from epp.kube.api import MAX_ANSWER_BYTES, Kube
from epp.kube.informer import Informer
from epp.kube.resource import PODS
from tests.fakes.kubeapi import End, FakeKubeApi, Refuse


class Notes:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.world: dict[str, Any] = {}
        self.fail = False

    def replaced(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
        self.world = dict(objects)
        self.told.append(("replaced", sorted(objects)))

    def changed(self, key: str, object: Mapping[str, Any]) -> None:
        if self.fail:
            raise RuntimeError("a bug")
        self.world[key] = object
        self.told.append(("changed", key))

    def removed(self, key: str) -> None:
        del self.world[key]
        self.told.append(("removed", key))


class Waits:
    """A sleep that is over at once, and the lengths that were asked for."""

    def __init__(self) -> None:
        self.s: list[float] = []

    async def __call__(self, wait_s: float) -> None:
        self.s.append(wait_s)
        await asyncio.sleep(0)


@pytest.fixture
async def server() -> AsyncIterator[FakeKubeApi]:
    async with FakeKubeApi() as running:
        yield running


@pytest.fixture
async def kube(server: FakeKubeApi, tmp_path: Path) -> AsyncIterator[Kube]:
    opened = await Kube.open(server.kubeconfig(tmp_path / "config"), {})
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def following(
    kube: Kube, notes: Notes, sleep: Callable[[float], Awaitable[None]] | None = None, **options: Any
) -> AsyncIterator[Informer]:
    informer = Informer(kube, PODS, notes, rng=random.Random(5), sleep=sleep or Waits(), **options)
    task = asyncio.create_task(informer.run())
    yield informer
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_whole_list_then_each_change(server: FakeKubeApi, kube: Kube) -> None:
    for name in "abcde":
        server.put(f"one/{name}")
    notes = Notes()
    async with following(kube, notes, page=2) as informer:
        assert (informer.synced, informer.absent, informer.trouble) == (False, False, "")
        await until(lambda: informer.synced)
        server.put("two/f")
        server.put("one/a")
        server.drop("one/b")
        await until(lambda: len(notes.told) == 4)
    assert notes.told == [
        ("replaced", ["one/a", "one/b", "one/c", "one/d", "one/e"]),
        ("changed", "two/f"),
        ("changed", "one/a"),
        ("removed", "one/b"),
    ]
    pages = [query for _, query in server.requests if "watch" not in query]
    assert [("continue" in query, query["limit"]) for query in pages] == [
        (False, "2"),
        (True, "2"),
        (True, "2"),
    ]


async def test_what_is_asked_for(server: FakeKubeApi, kube: Kube) -> None:
    notes = Notes()
    options = {"namespace": "one", "labels": "app=x", "fields": "metadata.name=p"}
    async with following(kube, notes, **options):
        await until(lambda: len(server.requests) == 2)
    (list_path, listed), (watch_path, watched) = server.requests
    assert list_path == watch_path == "/api/v1/namespaces/one/pods"
    selectors = {"labelSelector": "app=x", "fieldSelector": "metadata.name=p"}
    assert listed == {**selectors, "limit": "500"}
    assert watched.pop("timeoutSeconds") in {str(s) for s in range(300, 601)}
    assert watched == {**selectors, "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": "0"}


async def test_a_watch_that_ends_goes_on_from_the_last_bookmark(server: FakeKubeApi, kube: Kube) -> None:
    server.put("one/a")

    def listed(pod: dict[str, Any]) -> Mapping[str, Any]:
        """The list is made: now something happens elsewhere, and the watch will end after telling so."""
        server.put("two/not-ours")
        server.faults.append(End())
        return pod

    notes, waits = Notes(), Waits()
    async with following(kube, notes, waits, namespace="one", trim=listed):
        await until(lambda: server.watches == 1 and len(server.requests) == 3)
    assert notes.told == [("replaced", ["one/a"])]
    assert [query["resourceVersion"] for _, query in server.requests[1:]] == ["1", "2"]
    assert waits.s == [], "a good end is followed at once"


async def test_objects_are_cut_down_as_they_come(server: FakeKubeApi, kube: Kube) -> None:
    server.put("one/a", spec={"node": "n", "containers": [1] * 100})
    notes = Notes()
    async with following(kube, notes, trim=lambda pod: {"node": pod["spec"]["node"]}) as informer:
        await until(lambda: informer.synced)
        server.put("one/b", spec={"node": "m"})
        await until(lambda: len(notes.world) == 2)
    assert notes.world == {"one/a": {"node": "n"}, "one/b": {"node": "m"}}


async def test_history_that_is_gone_in_the_middle_of_a_list(server: FakeKubeApi, kube: Kube) -> None:
    for name in "abcd":
        server.put(f"one/{name}")
    told = 0

    def trim(pod: dict[str, Any]) -> Mapping[str, Any]:
        nonlocal told
        told += 1
        if told == 2:
            server.compact()
            server.drop("one/a")
        return pod

    notes, waits = Notes(), Waits()
    async with following(kube, notes, waits, page=2, trim=trim) as informer:
        await until(lambda: informer.synced and not informer.trouble)
    assert notes.told == [("replaced", ["one/b", "one/c", "one/d"])]
    assert waits.s == [], "listed again at once"


async def test_a_page_that_is_too_large_is_asked_for_in_parts(server: FakeKubeApi, kube: Kube) -> None:
    rows, megabytes = 20, MAX_ANSWER_BYTES >> 20
    data = "x" * (megabytes // 16 << 20)
    for row in range(rows):
        server.put(f"one/{row}", data=data)
    notes = Notes()
    async with following(kube, notes, page=24, trim=lambda pod: {}) as informer:
        await until(lambda: informer.synced)
    assert len(notes.world) == rows
    assert {query["limit"] for _, query in server.requests if "watch" not in query} == {"24", "3"}


async def test_a_resource_that_is_installed_later(server: FakeKubeApi, kube: Kube) -> None:
    server.installed = False
    server.put("one/a")
    notes = Notes()
    async with following(kube, notes) as informer:
        await until(lambda: informer.absent)
        assert informer.synced
        assert notes.told == [("replaced", [])]
        server.installed = True
        await until(lambda: server.watches == 1)
        server.installed = False
        server.cut_all()
        await until(lambda: informer.absent)
    assert notes.told == [("replaced", []), ("replaced", ["one/a"]), ("replaced", [])]


async def test_without_permission_the_last_world_stays(server: FakeKubeApi, kube: Kube) -> None:
    server.put("one/a")
    notes = Notes()
    async with following(kube, notes) as informer:
        await until(lambda: server.watches == 1)
        server.forbidden = {"list", "watch"}
        server.cut_all()
        await until(lambda: informer.trouble.startswith("may not watch pods/v1"))
        server.drop("one/a")
        server.put("one/b")
        assert set(notes.world) == {"one/a"}
        server.forbidden = set()
        await until(lambda: set(notes.world) == {"one/b"})
        await until(lambda: not informer.trouble)


async def test_a_pause_that_the_server_asks_for(server: FakeKubeApi, kube: Kube) -> None:
    server.faults.append(Refuse(429, retry_after_s=9))
    waits = Waits()
    async with following(kube, Notes(), waits) as informer:
        await until(lambda: informer.synced)
    assert 9.0 <= waits.s[0] <= 10.8


async def test_the_list_is_read_anew_in_time(server: FakeKubeApi, kube: Kube) -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    server.put("one/a")
    notes, clock = Notes(), Clock()
    async with following(kube, notes, clock=clock, resync_s=(900.0, 900.0)):
        await until(lambda: server.watches == 1)
        notes.world.clear()  # an event that was lost
        clock.now = 900.0
        server.cut_all()
        await until(lambda: set(notes.world) == {"one/a"})
    assert notes.told == [("replaced", ["one/a"])] * 2


async def test_a_server_that_falls_silent_is_asked_again_without_a_word(
    server: FakeKubeApi, kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    server.bookmarks = False
    notes = Notes()
    async with following(kube, notes, silence_s=0.02) as informer:
        await until(lambda: len(server.requests) > 5)
        server.put("one/a")
        await until(lambda: set(notes.world) == {"one/a"})
        assert not informer.trouble
    assert len([told for told in notes.told if told[0] == "replaced"]) == 1
    assert caplog.text == ""


async def test_a_watcher_that_fails_ends_nothing(
    server: FakeKubeApi, kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    notes.fail = True
    async with following(kube, notes) as informer:
        await until(lambda: informer.synced)
        server.put("one/a")
        await until(lambda: "the watcher failed" in caplog.text)
        notes.fail = False
        server.put("one/b")
        await until(lambda: "one/b" in notes.world)
    assert "RuntimeError: a bug" in caplog.text


async def test_each_trouble_is_logged_once(
    server: FakeKubeApi, kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "epp.kube.informer")
    server.faults.extend([Refuse(500), Refuse(500), Refuse(500)])
    async with following(kube, Notes()) as informer:
        await until(lambda: informer.synced and not informer.trouble)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot list pods/v1 in all namespaces: 500 Fault: Fault by the fake",
        "pods/v1: following again",
    ]


async def test_thousands_of_objects_do_not_hold_up_the_loop(server: FakeKubeApi, kube: Kube) -> None:
    for row in range(400):
        server.put(f"one/{row}")
    read = turns = 0

    def trim(pod: dict[str, Any]) -> Mapping[str, Any]:
        nonlocal read
        read += 1
        return pod

    async def others() -> None:
        nonlocal turns
        seen = 0
        while True:
            await asyncio.sleep(0)
            turns += read > seen
            seen = read

    other = asyncio.create_task(others())
    async with following(kube, Notes(), trim=trim) as informer:
        await until(lambda: informer.synced)
    other.cancel()
    assert turns >= 10, "others had their turn between the objects of one page"


async def test_a_fault_of_ours_ends_the_following_of_nothing(
    server: FakeKubeApi, kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    server.put("one/a")
    faults = ["once", "twice"]

    def trim(raw: dict[str, Any]) -> dict[str, Any]:
        if faults:
            raise LookupError(faults.pop())
        return raw

    notes, waits = Notes(), Waits()
    async with following(kube, notes, waits, trim=trim) as informer:
        await until(lambda: informer.synced)
    assert list(notes.world) == ["one/a"]
    assert "LookupError: once" in caplog.text
    assert len(waits.s) >= 2  # not at once
