"""Events: once each, few a minute, and no harm when they cannot be written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from epp.kube.api import KubeError
from epp.kube.events import AGAIN_S, MAX_WAITING, PER_MINUTE, Events
from epp.kube.pools import POOLS
from epp.kube.resource import PODS

CHAT = {"namespace": "prod", "name": "chat", "uid": "u1", "resourceVersion": "7"}


class Api:
    """Keeps what is written, or refuses it."""

    def __init__(self) -> None:
        self.written: list[tuple[str, Any]] = []
        self.asked = 0
        self.refuses = False

    async def post(self, path: str, *, body: Any) -> dict[str, Any]:
        self.asked += 1
        if self.refuses:
            raise KubeError(403, "Forbidden", "events is forbidden")
        self.written.append((path, body))
        return {}


class Scene:
    def __init__(self) -> None:
        self.now = 0.0
        self.api = Api()
        self.events = Events(self.api, "epp-0", clock=lambda: self.now)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.events.run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def written(self) -> list[str]:
        """Messages so far."""
        for _ in range(4):
            await asyncio.sleep(0)
        return [body["message"] for _, body in self.api.written]


async def test_what_an_event_says() -> None:
    scene = Scene()
    async with scene.running():
        scene.events.warn(POOLS, CHAT, "InvalidInferencePool", "spec.x: is wrong")
        await scene.written()
    ((path, body),) = scene.api.written
    assert path == "/api/v1/namespaces/prod/events"
    assert body["involvedObject"] == {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "namespace": "prod",
        "name": "chat",
        "uid": "u1",
        "resourceVersion": "7",
    }
    assert (body["type"], body["reason"], body["message"]) == (
        "Warning",
        "InvalidInferencePool",
        "spec.x: is wrong",
    )
    assert body["reportingInstance"] == "epp-0"
    assert body["metadata"]["name"].startswith("chat.")


async def test_once_in_ten_minutes_for_one_object_reason_and_message() -> None:
    scene = Scene()
    async with scene.running():
        for _ in range(3):
            scene.events.warn(POOLS, CHAT, "R", "a")
            scene.events.warn(POOLS, CHAT, "R", "b")
            scene.events.warn(POOLS, CHAT, "S", "a")
            scene.events.warn(PODS, CHAT, "R", "a")
        assert len(await scene.written()) == 4
        scene.now += AGAIN_S
        scene.events.warn(POOLS, CHAT, "R", "a")
        assert len(await scene.written()) == 5


async def test_few_a_minute() -> None:
    scene = Scene()
    async with scene.running():
        for n in range(1000):
            scene.events.warn(POOLS, CHAT, "R", f"message {n}")
            await scene.written()
        assert len(await scene.written()) == PER_MINUTE
        assert scene.events.left_out == 1000 - PER_MINUTE
        scene.now += 60 / PER_MINUTE
        scene.events.warn(POOLS, CHAT, "R", "later")
        assert (await scene.written())[-1] == "later"


async def test_nothing_piles_up_while_nothing_is_written() -> None:
    scene = Scene()
    for n in range(1000):
        scene.now += 60
        scene.events.warn(POOLS, CHAT, "R", f"message {n}")
    async with scene.running():
        assert len(await scene.written()) <= MAX_WAITING


async def test_a_refusal_is_logged_once_and_what_was_said_may_be_said_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "epp.kube")
    scene = Scene()
    async with scene.running():
        scene.api.refuses = True
        for message in "aab":
            scene.events.warn(POOLS, CHAT, "R", message)
            assert await scene.written() == []
        assert scene.api.asked == 3
        (record,) = caplog.records
        assert "the right to create events in namespace prod is needed" in record.getMessage()
        scene.api.refuses = False
        scene.events.warn(POOLS, CHAT, "R", "a")
        assert await scene.written() == ["a"]


async def test_long_names_and_messages_are_cut() -> None:
    scene = Scene()
    async with scene.running():
        scene.events.warn(POOLS, {"namespace": "prod", "name": "n" * 253}, "R", "m" * 5000)
        await scene.written()
    ((_, body),) = scene.api.written
    assert len(body["metadata"]["name"]) == 253
    assert len(body["message"]) == 1024
