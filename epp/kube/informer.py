"""Follows one resource of the API: list, then watch, for as long as it runs; tells a Watcher what is there.

What comes after what is decided in `watchstate`; here is the I/O. A world is told whole after the last
page of a list, then change by change: what the Watcher knows was true at some time and is never half of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from epp.kube.api import SILENT, Kube, KubeError
from epp.kube.following import Watcher
from epp.kube.resource import Resource
from epp.kube.watchstate import (
    RESYNC_S,
    Course,
    Head,
    Step,
    event_of,
    failure_of,
    head_of,
    object_of,
    page_of,
)

_log = logging.getLogger(__name__)

PAGE = 500
WATCH_S = (300, 600)
"""How long a watch is asked to last: all of a fleet do not come back in the same moment."""
WATCH_MARGIN_S = 30.0
"""After that a watch that should have ended is given up: nobody is there any more."""
SILENCE_S = 150.0
"""API servers send a bookmark about once a minute; without a byte for longer, ask again from where we are."""
AT_ONCE = 32
"""Objects that are decoded before others on the event loop get their turn; about 3 ms of pods."""

Object = Mapping[str, Any]
Trim = Callable[[dict[str, Any]], Object]


class Informer:
    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        watcher: Watcher,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        trim: Trim | None = None,
        page: int = PAGE,
        resync_s: tuple[float, float] = RESYNC_S,
        silence_s: float = SILENCE_S,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`namespace` None: all of them. `labels` and `fields` are selectors as the API writes them.

        `trim` cuts an object down to what the Watcher reads, right after it was decoded.
        """
        self.resource = resource
        self._kube = kube
        self._watcher = watcher
        self._path = resource.path(namespace)
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        self._selectors = {name: text for name, text in selectors.items() if text}
        self._trim = trim
        self._page = page
        self._silence_s = silence_s
        self._rng = rng or random.Random()
        self._clock = clock
        self._sleep = sleep
        self._course = Course(resource, namespace, self._rng, resync_s=resync_s)
        self._said = ""

    @property
    def synced(self) -> bool:
        """A whole list was told at least once."""
        return self._course.synced

    @property
    def absent(self) -> bool:
        """The API does not know the resource; told as an empty world, and asked again now and then."""
        return self._course.absent

    @property
    def trouble(self) -> str:
        """Why it does not follow now; "" when it does."""
        return self._course.trouble

    async def run(self) -> None:
        """Until cancelled."""
        course = self._course
        while True:
            absent = course.absent
            try:
                wait_s = await (self._list() if course.step is Step.LIST else self._watch())
            except KubeError as error:
                wait_s = self._failed(error)
            except msgspec.MsgspecError as error:
                wait_s = course.failed(0, "BadAnswer", str(error), self._clock())
            except Exception as error:  # a fault of ours; all else that is followed must go on
                _log.exception("%s: following failed", self.resource)
                wait_s = course.failed(0, type(error).__name__, str(error), self._clock())
            if course.absent and not absent:
                _log.info("%s: not installed in this cluster", self.resource)
                self._tell(self._watcher.replaced, {})
            self._log_trouble()
            if wait_s > 0:
                await self._sleep(wait_s)

    def _failed(self, error: KubeError) -> float:
        course, now = self._course, self._clock()
        if error.reason == SILENT:
            return course.ended(now)
        if error.reason == "TooLarge" and course.step is Step.LIST:
            self._page = max(1, self._page // 8)
        return course.failed(error.status, error.reason, error.message, now, asked_s=error.retry_after_s)

    async def _list(self) -> float:
        found: dict[str, Object] = {}
        params: dict[str, str | int] = {**self._selectors, "limit": self._page}
        while True:
            page = page_of(await self._kube.fetch("GET", self._path, params=params))
            for count, raw in enumerate(page.items or ()):
                if count % AT_ONCE == 0:
                    await asyncio.sleep(0)
                found[_key(head_of(raw))] = self._read(raw)
            if not page.metadata.continue_:
                break
            params["continue"] = page.metadata.continue_
        if not page.metadata.resource_version:
            raise KubeError(0, "BadAnswer", "a list without a resourceVersion")
        self._course.listed(page.metadata.resource_version, self._clock())
        self._tell(self._watcher.replaced, found)
        return 0.0

    async def _watch(self) -> float:
        course = self._course
        last_s = self._rng.randint(*WATCH_S)
        params: dict[str, str | int] = {
            **self._selectors,
            "watch": 1,
            "allowWatchBookmarks": "true",
            "resourceVersion": course.version,
            "timeoutSeconds": last_s,
        }
        async with self._kube.stream(
            self._path, params, timeout_s=last_s + WATCH_MARGIN_S, silence_s=self._silence_s
        ) as lines:
            course.watching(self._clock())
            self._log_trouble()
            count = 0
            async for line in lines:
                count += 1
                if count % AT_ONCE == 0:
                    await asyncio.sleep(0)
                self._event(line)
        return course.ended(self._clock())

    def _event(self, line: bytes) -> None:
        event = event_of(line)
        if event.type == "ERROR":
            told = failure_of(event.object)
            asked_s = told.details.retryAfterSeconds if told.details else 0.0
            raise KubeError(told.code, told.reason, told.message, retry_after_s=asked_s or None)
        head = head_of(event.object)
        match event.type:
            case "ADDED" | "MODIFIED":
                self._tell(self._watcher.changed, _key(head), self._read(event.object))
            case "DELETED":
                self._tell(self._watcher.removed, _key(head))
            case "BOOKMARK":
                pass
            case _:
                raise KubeError(0, "BadAnswer", f"an event of type {event.type[:40]!r}")
        self._course.told(head.metadata.resource_version)

    def _read(self, raw: msgspec.Raw) -> Object:
        whole = object_of(raw)
        return self._trim(whole) if self._trim is not None else whole

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        try:
            what(*arguments)
        except Exception:  # a bug there; one odd object must not end the following of all others
            _log.exception("%s: the watcher failed", self.resource)

    def _log_trouble(self) -> None:
        trouble = self._course.trouble
        if trouble == self._said:
            return
        if trouble:
            _log.warning("%s", trouble)
        else:
            _log.info("%s: following again", self.resource)
        self._said = trouble


def _key(head: Head) -> str:
    if not head.metadata.name:
        raise KubeError(0, "BadAnswer", "an object without a name")
    return head.metadata.key
