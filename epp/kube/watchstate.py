"""What a follower of a list does next, as a function of what has just happened: no I/O, no clock, no sleep.

A list is read in pages; when its last page is there, a watch goes on from the list's version. What went wrong
decides whether the watch is opened again where it was or the list is read anew, and after how long.
"""

from __future__ import annotations

import random
from enum import Enum, auto
from typing import Any

import msgspec

from epp.kube.resource import Resource

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
LONGEST_ASKED_S = 120.0
"""A server may ask for a longer pause than ours, but not for any."""
RELIST_AFTER = 3
"""Watches in a row that the server refused without a word: then the version itself may be what it cannot
serve, as after a restored backup."""
GONE_AFTER = 3
"""Refusals in a row before a resource that was there counts as removed: a server may be starting."""
SETTLED_S = 10.0
"""A watch that was open for so long makes up for the failures before it."""
SHORT_WATCH_S = 1.0
"""A watch that ends sooner and says nothing is opened again with a pause, so that no server is hammered."""
RESYNC_S = (600.0, 1800.0)
"""The list is read anew after a time in this range: an event that was lost does no lasting harm."""


class Step(Enum):
    LIST = auto()
    WATCH = auto()


class Course:
    """One follower's next step. `now` is monotonic seconds throughout."""

    def __init__(
        self, resource: Resource, namespace: str | None, rng: random.Random, *, resync_s: tuple[float, float]
    ) -> None:
        self._resource = resource
        self._where = f"namespace {namespace}" if namespace is not None else "all namespaces"
        self._role = "ClusterRole" if namespace is None else "Role"
        self._rng = rng
        self._resync_s = resync_s
        self.step = Step.LIST
        self.version = ""
        """Up to which the world was told."""
        self.synced = False
        self.absent = False
        self.trouble = ""
        self._resync_at = 0.0
        self._open_at: float | None = None
        """Since when the watch is open."""
        self._told = False
        """It has said something."""
        self._failures = 0
        """In a row, of lists and watches."""
        self._refused = 0
        """Watches in a row that the server itself has refused, since the last list."""
        self._missing = 0

    def listed(self, version: str, now: float) -> None:
        """The last page is there."""
        self.version = version
        self.step = Step.WATCH
        self.synced, self.absent = True, False
        # The failures stay: a list that works and a watch that does not must not chase each other.
        self._refused = self._missing = 0
        self._resync_at = now + self._rng.uniform(*self._resync_s)

    def watching(self, now: float) -> None:
        """The server has opened the watch."""
        self.trouble = ""
        self._open_at = now
        self._told = False

    def told(self, version: str) -> None:
        """By an event or a bookmark."""
        if version:
            self.version = version
        self._told = True
        self._failures = self._refused = 0

    def ended(self, now: float) -> float:
        """The server closed the watch in good order. Seconds to wait."""
        if now >= self._resync_at:
            self.step = Step.LIST
        long_s = self._closed(now)
        return 0.0 if self._told or long_s >= SHORT_WATCH_S else self._failed()

    def failed(
        self, status: int, reason: str, message: str, now: float, *, asked_s: float | None = None
    ) -> float:
        """A page or the watch was refused or cut; `asked_s`: by the server, as a pause. Seconds to wait."""
        self._closed(now)
        first = self._failures == 0
        wait_s = self._failed()
        if status == 404:
            return self._not_there(wait_s)
        self._missing = 0
        if status == 410:
            # History is gone: read the list anew, at once unless that has just been tried.
            self.step = Step.LIST
            self.trouble = f"{self._resource}: the version we know is forgotten there, listing again"
            return 0.0 if first else wait_s
        if status == 403:
            self.trouble = self._forbidden(message)
        else:
            said = f"{status} {reason}: {message}" if status else f"{reason}: {message}"
            self.trouble = f"cannot {self._verb} {self._resource} in {self._where}: {said}"
        if self.step is Step.WATCH:
            if status and status not in (401, 403, 429):
                self._refused += 1
            if status == 400 or self._refused >= RELIST_AFTER or now >= self._resync_at:
                self.step = Step.LIST
        if asked_s is not None:
            # Not all at the very moment that was named.
            return max(wait_s, min(asked_s, LONGEST_ASKED_S) * self._rng.uniform(1.0, 1.2))
        return wait_s

    def _closed(self, now: float) -> float:
        """Seconds that the watch was open."""
        long_s = 0.0 if self._open_at is None else now - self._open_at
        if long_s >= SETTLED_S:
            self._failures = 0
        self._open_at = None
        return long_s

    @property
    def _verb(self) -> str:
        return "list" if self.step is Step.LIST else "watch"

    def _failed(self) -> float:
        """Full jitter: many pickers that lost one server do not come back together."""
        self._failures += 1
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(self._failures - 1, 10))
        return self._rng.uniform(0.0, longest)

    def _not_there(self, wait_s: float) -> float:
        self.step = Step.LIST
        self._missing += 1
        known = self.synced and not self.absent
        if known and self._missing < GONE_AFTER:
            self.trouble = f"the API server does not know {self._resource} any more"
            return wait_s
        self.synced = self.absent = True
        self.version, self.trouble = "", ""
        # Not a failure that grows: its definition may be installed at any time.
        return LONGEST_WAIT_S * self._rng.uniform(0.5, 1.0)

    def _forbidden(self, message: str) -> str:
        resource = self._resource
        return (
            f"may not {self._verb} {resource} in {self._where}: a {self._role} for this account needs "
            f'{{apiGroups: ["{resource.group}"], resources: ["{resource.plural}"], '
            f'verbs: ["get", "list", "watch"]}} ({message})'
        )


class _ListMeta(msgspec.Struct, rename={"resource_version": "resourceVersion", "continue_": "continue"}):
    resource_version: str = ""
    continue_: str = ""


class Page(msgspec.Struct):
    """One page of a list; its items are decoded one by one, so that thousands do not hold up the loop."""

    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Meta(msgspec.Struct, rename={"resource_version": "resourceVersion"}):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Head(msgspec.Struct):
    metadata: _Meta


class Event(msgspec.Struct):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class _Asked(msgspec.Struct):
    retryAfterSeconds: float = 0  # noqa: N815 as the API spells it


class Failure(msgspec.Struct):
    """The object of an ERROR event."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Asked | None = None


page_of = msgspec.json.Decoder(Page).decode
event_of = msgspec.json.Decoder(Event).decode
head_of = msgspec.json.Decoder(Head).decode
failure_of = msgspec.json.Decoder(Failure).decode
object_of = msgspec.json.Decoder(dict[str, Any]).decode
