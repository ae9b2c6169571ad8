"""However lists and watches break, what an informer tells was true at some time, and in the end is now."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.kube.api import Kube
from epp.kube.informer import Informer
from epp.kube.resource import PODS
from tests.fakes.kubeapi import BUSY, GARBAGE, GONE, HALF, Cut, End, FakeKubeApi, Fault, Refuse, Trickle

KEYS = [f"{namespace}/{name}" for namespace in ("one", "two") for name in "abcd"]


class Believer:
    """Keeps the world it is told, and checks at every step that there was such a one, not older."""

    def __init__(self, server: FakeKubeApi) -> None:
        self.server = server
        self.world: dict[str, str] = {}
        self.at = 0
        """The oldest state that the world can be."""
        self.lists = 0

    def replaced(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
        self.lists += 1
        self.world = {key: object["metadata"]["resourceVersion"] for key, object in objects.items()}
        self._check()

    def changed(self, key: str, object: Mapping[str, Any]) -> None:
        self.world[key] = object["metadata"]["resourceVersion"]
        self._check()

    def removed(self, key: str) -> None:
        del self.world[key]
        self._check()

    def _check(self) -> None:
        states = self.server.states
        found = [at for at in range(self.at, len(states)) if states[at] == self.world]
        if not found:
            raise Impossible(f"{self.world} was no state from {self.at} on: {states[self.at :]}")
        self.at = found[0]


class Impossible(BaseException):
    """Not an Exception: an informer goes on after those of its watcher."""


faults: st.SearchStrategy[Fault] = st.one_of(
    st.integers(-1, 900).map(Cut),
    st.integers(0, 3).map(End),
    st.sampled_from([GARBAGE, HALF, GONE, BUSY]),
    st.sampled_from(
        [Refuse(410), Refuse(429, retry_after_s=1), Refuse(500), Refuse(504), Refuse(502, text="bad")]
    ),
    st.integers(1, 50).map(Trickle),
)
moves = st.one_of(
    st.sampled_from(KEYS).map(lambda key: ("put", key)),
    st.sampled_from(KEYS).map(lambda key: ("drop", key)),
    st.sampled_from(["compact", "cut", "turn", "settle"]).map(lambda name: (name, "")),
)
# Every scene has twelve faults and as many cuts from outside as it draws.
scenes = st.tuples(
    st.lists(faults, min_size=12, max_size=12), st.lists(moves, max_size=40), st.integers(1, 4)
)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kube") / "config"


async def until_settled(informer: Informer, believer: Believer) -> None:
    async with asyncio.timeout(20):
        while believer.world != believer.server.state or not informer.synced:
            await asyncio.sleep(0.001)


async def play(kubeconfig: Path, broken: list[Fault], script: list[tuple[str, str]], page: int) -> None:
    async with FakeKubeApi() as server:
        for key in KEYS[:5]:
            server.put(key)
        believer = Believer(server)
        believer.at = server.now
        kube = await Kube.open(server.kubeconfig(kubeconfig), {})
        server.faults.extend(broken)
        informer = Informer(
            kube, PODS, believer, page=page, rng=random.Random(7), sleep=lambda _: asyncio.sleep(0)
        )
        running = asyncio.create_task(informer.run())
        try:
            for name, key in script:
                match name:
                    case "put":
                        server.put(key)
                    case "drop" if key in server.objects:
                        server.drop(key)
                    case "compact":
                        server.compact()
                    case "cut":
                        server.cut_all()
                    case "turn":
                        await asyncio.sleep(0.001)
                    case "settle":
                        await until_settled(informer, believer)
            # Every fault has had its turn, and what was lost by it is made up for.
            async with asyncio.timeout(20):
                while server.faults:
                    server.cut_all()
                    await asyncio.sleep(0.001)
                server.put("one/last")
                await until_settled(informer, believer)
                while informer.trouble:
                    await asyncio.sleep(0.001)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await kube.close()
        if not running.cancelled() and (error := running.exception()) is not None:
            raise error


@settings(max_examples=100)
@given(scene=scenes)
def test_a_world_that_breaks_all_the_time(
    scene: tuple[list[Fault], list[tuple[str, str]], int], loop: asyncio.Runner, kubeconfig: Path
) -> None:
    loop.run(play(kubeconfig, *scene))
