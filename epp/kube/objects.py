"""The objects of one resource as values by key. Bad ones are said once, and keep their last good form."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from epp.config.problems import Report, spell
from epp.kube.resource import Resource

T = TypeVar("T")
log = logging.getLogger("epp.kube")


class Warnings(Protocol):
    """Who tells the cluster's users what is wrong with an object."""

    def warn(self, resource: Resource, metadata: Mapping[str, Any], reason: str, message: str) -> None: ...


class Objects(Generic[T]):
    """A Watcher. `told` gets every change at once: by key, the value before and the value now."""

    def __init__(
        self,
        resource: Resource,
        read: Callable[[Mapping[str, Any], Report], T | None],
        told: Callable[[Mapping[str, tuple[T | None, T | None]]], None],
        warnings: Warnings,
    ) -> None:
        """`read` gives None where it has put problems into the report."""
        self.resource = resource
        self._read = read
        self._told = told
        self._warnings = warnings
        self.whole = False
        """A whole list was told at least once."""
        self.values: dict[str, T] = {}
        """By `namespace/name`."""
        self.bad: dict[str, str] = {}
        """What is wrong with those that are wrong now."""
        self._noticed: dict[str, str] = {}

    def replaced(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
        before = self.values
        gone = {key for key in (*before, *self.bad, *self._noticed) if key not in objects}
        for key in gone:
            self.bad.pop(key, None)
            self._noticed.pop(key, None)
        now = {key: value for key, raw in objects.items() if (value := self._value(key, raw)) is not None}
        self.values = now
        first, self.whole = not self.whole, True
        changes = {
            key: (before.get(key), now.get(key))
            for key in {**before, **now}
            if before.get(key) != now.get(key)
        }
        if changes or first:
            self._told(changes)

    def changed(self, key: str, object: Mapping[str, Any]) -> None:
        before = self.values.get(key)
        now = self._value(key, object)
        if now == before:
            return
        if now is None:
            del self.values[key]
        else:
            self.values[key] = now
        self._told({key: (before, now)})

    def removed(self, key: str) -> None:
        self.bad.pop(key, None)
        self._noticed.pop(key, None)
        before = self.values.pop(key, None)
        if before is not None:
            self._told({key: (before, None)})

    def _value(self, key: str, raw: Mapping[str, Any]) -> T | None:
        """None also for one that is being deleted."""
        metadata = raw.get("metadata")
        if isinstance(metadata, Mapping) and metadata.get("deletionTimestamp"):
            return None
        report = Report(f"{self.resource.kind} {key} ({self.resource.api_version})")
        value = self._read(raw, report)
        if value is None:
            said = "; ".join(
                f"{spell(one.path)}: {one.message}" if one.path else one.message for one in report.problems
            )
            kept = self.values.get(key)
            if self.bad.get(key) != said:
                self.bad[key] = said
                for problem in report.problems:
                    log.warning("%s", problem)
                if kept is not None:
                    log.warning("%s: its last good form stays in force", report.source)
                self._warnings.warn(self.resource, _map(metadata), f"Invalid{self.resource.kind}", said)
            return kept
        if self.bad.pop(key, None) is not None:
            log.info("%s is good now", report.source)
        notices = "\n".join(map(str, report.notices))
        if notices and self._noticed.get(key) != notices:
            for notice in report.notices:
                log.warning("%s", notice)
        if notices:
            self._noticed[key] = notices
        else:
            self._noticed.pop(key, None)
        return value


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
