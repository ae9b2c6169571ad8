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
        self.wrong: list[str] = []

    def replaced(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
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
            self.wrong.append(f"{self.world} was no state from {self.at} on: {states[self.at :]}")
        else:
            self.at = found[0]


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
    st.sampled_from(["settle", "settle", "turn", "compact"]).map(lambda name: (name, "")),
)
Round = tuple[Fault, list[tuple[str, str]]]
"""What the next request meets after every connection was cut, and what happens then."""
ROUNDS = 10
scenes = st.tuples(
    st.lists(st.tuples(faults, st.lists(moves, max_size=5)), min_size=ROUNDS, max_size=ROUNDS + 5),
    st.integers(1, 4),
)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kube") / "config"


async def until_settled(informer: Informer, believer: Believer) -> None:
    server = believer.server
    async with asyncio.timeout(5):
        while believer.world != server.state or not server.watches or server.faults or informer.trouble:
            assert not believer.wrong
            if server.faults and server.watches:
                server.cut_all()  # two faults came so fast that one is left for the next watch
            await asyncio.sleep(0.0005)


async def play(kubeconfig: Path, rounds: list[Round], page: int) -> None:
    async with FakeKubeApi() as server:
        for key in KEYS[:5]:
            server.put(key)
        believer = Believer(server)
        kube = await Kube.open(server.kubeconfig(kubeconfig), {})
        informer = Informer(
            kube, PODS, believer, page=page, rng=random.Random(7), sleep=lambda _: asyncio.sleep(0)
        )
        running = asyncio.create_task(informer.run())
        try:
            for fault, moves in rounds:
                server.faults.append(fault)
                server.cut_all()
                for name, key in moves:
                    match name:
                        case "put":
                            server.put(key)
                        case "drop" if key in server.objects:
                            server.drop(key)
                        case "compact":
                            server.compact()
                        case "turn":
                            await asyncio.sleep(0.001)
                        case "settle":
                            await until_settled(informer, believer)
            server.cut_all()
            server.put("one/last")
            await until_settled(informer, believer)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await kube.close()


@settings(max_examples=100)
@given(scene=scenes)
def test_a_thousand_cuts(scene: tuple[list[Round], int], loop: asyncio.Runner, kubeconfig: Path) -> None:
    loop.run(play(kubeconfig, *scene))
