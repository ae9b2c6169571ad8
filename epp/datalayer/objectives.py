"""The objectives that requests may name: from a watched file or folder into a frozen mapping, swapped whole.

A folder counts with its `*.yaml`, `*.yml` and `*.json`; the file that leaves it takes its objectives along.
After the start whatever is wrong is reported and the set before stays in force, all of it. The rewrites of
models' names stand in the same files.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from epp.datalayer.rewrites import Rewrites
from epp.datalayer.watching import Watch, folders_of
from epp.domain.objective import Objective
from epp.domain.rewrite import Rewrite

MAX_FILES = 1000
MAX_BYTES = 1 << 20
"""Of all files together."""
_SUFFIXES = (".yaml", ".yml", ".json")
_NONE: Mapping[str, Objective] = MappingProxyType({})
_log = logging.getLogger(__name__)

Files: TypeAlias = tuple[tuple[str, bytes], ...]
"""Names and contents."""


class ObjectivesError(ValueError):
    """The files cannot be used; `complaints` are whole lines, each with its place."""

    def __init__(self, complaints: Sequence[str]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("\n".join(self.complaints))


@dataclass(frozen=True, slots=True)
class ObjectivesRead:
    by_name: Mapping[str, Objective]
    notices: tuple[str, ...] = ()
    """What was passed by, and why."""
    rewrites: tuple[Rewrite, ...] = ()


class Objectives:
    """An ObjectiveSource. Written by the event loop."""

    def __init__(self, default_priority: int = 0) -> None:
        self.default_priority = default_priority
        """Of requests that name no objective, or none that is known."""
        self._by_name = _NONE
        self._observers: list[Callable[[frozenset[int]], None]] = []

    @property
    def by_name(self) -> Mapping[str, Objective]:
        """Frozen: a change puts another in its place."""
        return self._by_name

    def priority(self, name: str) -> int:
        objective = self._by_name.get(name)
        return self.default_priority if objective is None else objective.priority

    @property
    def priorities(self) -> frozenset[int]:
        """All that requests can have."""
        return frozenset({self.default_priority, *(one.priority for one in self._by_name.values())})

    def observe(self, observer: Callable[[frozenset[int]], None]) -> None:
        """`observer` is told the priorities now and after each change."""
        self._observers.append(observer)
        observer(self.priorities)

    def replace(self, by_name: Mapping[str, Objective]) -> None:
        self._by_name = MappingProxyType(dict(by_name))
        for observer in self._observers:
            observer(self.priorities)


class ObjectiveFiles:
    """Keeps `objectives` and `rewrites` as the files have them."""

    def __init__(
        self,
        path: str | Path,
        objectives: Objectives,
        read: Callable[[Files], ObjectivesRead],
        *,
        refused: Callable[[], None] | None = None,
        rewrites: Rewrites | None = None,
    ) -> None:
        """`read` raises ObjectivesError. `refused` is told of each change that was not taken."""
        self._path = Path(path)
        self._objectives = objectives
        self._read = read
        self._refused = refused
        self._rewrites = rewrites
        self._files: Files | None = None
        """What was last looked at, good or bad."""
        self._complaint = ""
        """Why they were refused last time; said once."""

    def load(self) -> None:
        """Read them now. Raises ObjectivesError."""
        files = self._fetch()
        read = self._read(files)
        self._files = files
        self._take(read)

    async def run(self) -> None:
        """Watch until cancelled. Loads first if that was not done, and only that may raise."""
        if self._files is None:
            self.load()
        await Watch(f"{self._path} (objectives)", self._folders, self._look).run()

    async def _look(self) -> None:
        try:
            files = await asyncio.to_thread(self._fetch)
            if files == self._files:
                self._complaint = ""
                return
            self._files = files
            read = await asyncio.to_thread(self._read, files)
        except ObjectivesError as error:
            if str(error) == self._complaint:
                return
            self._complaint = str(error)
            for line in error.complaints:
                _log.warning("objectives refused, those before stay in force: %s", line)
            if self._refused is not None:
                self._refused()
            return
        self._complaint = ""
        self._take(read)
        _log.info(
            "objectives of %s have changed: there are %d, and %d rewrites of models' names",
            self._path, len(read.by_name), len(read.rewrites),
        )  # fmt: skip

    def _take(self, read: ObjectivesRead) -> None:
        for notice in read.notices:
            _log.warning("objectives: %s", notice)
        self._objectives.replace(read.by_name)
        if self._rewrites is not None:
            self._rewrites.replace(read.rewrites)

    def _fetch(self) -> Files:
        files: list[tuple[str, bytes]] = []
        left = MAX_BYTES
        for path in self._paths():
            try:
                with path.open("rb") as file:
                    data = file.read(left + 1)
            except FileNotFoundError as error:
                if path != self._path:
                    continue  # it went while we looked
                raise ObjectivesError([f"{path}: {error.strerror}"]) from error
            except OSError as error:
                raise ObjectivesError([f"{path}: {error.strerror or error}"]) from error
            left -= len(data)
            if left < 0:
                raise ObjectivesError([f"{self._path}: objectives of more than {MAX_BYTES} bytes"])
            files.append((str(path), data))
        return tuple(files)

    def _paths(self) -> Iterable[Path]:
        if not self._path.is_dir():
            return (self._path,)
        try:
            inside = sorted(self._path.iterdir())
        except OSError as error:
            raise ObjectivesError([f"{self._path}: {error.strerror or error}"]) from error
        paths = [p for p in inside if p.suffix in _SUFFIXES and p.name[0] != "." and p.is_file()]
        if len(paths) > MAX_FILES:
            raise ObjectivesError([f"{self._path}: more than {MAX_FILES} files of objectives"])
        return paths

    def _folders(self) -> list[Path]:
        """Of a folder: itself, its own (where it may be replaced), and those that its links lead to."""
        folders = set(folders_of(self._path))
        if self._path.is_dir():
            folders |= {self._path, self._path.resolve()}
            with suppress(ObjectivesError):
                folders.update(path.resolve().parent for path in self._paths())
        return sorted(folders)
