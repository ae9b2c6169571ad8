"""Where configurations come from: one for all pools, and a folder with files `<namespace>.<pool>.yaml`.

Files are watched as one: a stir in their folders is a reason to look, and what is found is taken when it has
been the same for a moment, so that neither half of a file nor a storm of writes makes a load for each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from epp.config.catalog import Catalog, catalog
from epp.config.loader import Document, assemble, preset_text, read_file
from epp.config.problems import ConfigError, Problem
from epp.config.reload import ConfigWatch, Counts, Text, read_text
from epp.datalayer.watching import Watch, folders_of

SUFFIXES: Final = (".yaml", ".yml", ".json")
MAX_FILES: Final = 10_000
MAX_CHARACTERS: Final = 64 << 20
"""Of all files together."""
SETTLE_S: Final = 0.1
"""What is found must have been the same for so long ..."""
SETTLE_MAX_S: Final = 2.0
"""... but while it never is, it is taken so often."""
RETRY_S: Final = 30.0
"""A text that was refused is tried again so often: a file that it names may have come meanwhile."""
FRESH_S: Final = 2.0
"""A file that was changed so shortly before it was read may be changed again without looking newer."""
_log = logging.getLogger(__name__)


def fixed(text: str, source: str) -> Text:
    """Of a flag; never changes."""
    return Text(source, text)


def preset(name: str = "") -> Text:
    """A built-in configuration; the default one without a name. Raises ConfigError for an unknown name."""
    return Text(f"preset {name}", preset_text(name)) if name else Text("default preset", preset_text())


@dataclass(frozen=True, slots=True)
class _Seen:
    """A file as it was read."""

    stamp: tuple[int, int, int]
    read_at: float
    text: Text

    def holds(self, stamp: tuple[int, int, int]) -> bool:
        return stamp == self.stamp and stamp[0] / 1e9 < self.read_at - FRESH_S


class PoolConfigs:
    """Gives every pool its configuration, and keeps it as the files have it while `run` runs."""

    def __init__(
        self,
        default: Path | Text,
        folder: Path | None = None,
        *,
        allow_experimental: bool = False,
        plugin_types: Catalog | None = None,
        counts: Counts | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Reads all files now. `default` is for pools without a file in `folder`. Raises ConfigError where
        that cannot be used, or the folder cannot be read."""
        self._default = default
        self._folder = folder
        self._experimental = allow_experimental
        self._types = plugin_types or catalog()
        self._counts = counts
        self._pause = pause
        self._seen: dict[Path, _Seen] = {}
        self._watches: dict[tuple[str, str], ConfigWatch] = {}
        self._complaint = ""
        """Why the folder could not be read last time; said once."""
        self._blamed: Text | None = None
        """What a new pool could not use, told once for many of them."""
        self._said: set[Path] = set()
        """Files of which it was told that they mean nothing."""
        self._texts: Mapping[str, Text] = self._fetch()
        self._good = self._judged(self._texts[""])
        """The last default that was good."""
        self.default = assemble(self._good[1], self._types, allow_experimental)
        """That of the start; belongs to no pool."""

    def count(self, counts: Counts) -> None:
        """Tell of every load of a pool's configuration from now on."""
        self._counts = counts

    def of(self, namespace: str, name: str, label: str = "") -> ConfigWatch:
        """The configuration of a pool, to be followed until `forget`; `label` is how metrics call it.

        A file of its own that is wrong is reported, and the default stands in for it. Raises ConfigError
        where that fails as well.
        """
        watch = self._watches.get((namespace, name))
        if watch is not None:
            return watch
        label = label or (f"{namespace}/{name}" if namespace else name)
        own = self._text(namespace, name)
        good, document = self._good
        try:
            watch = self._watch(own, document if own == good else None, label)
            if own != good:
                for notice in watch.loaded.notices:
                    _log.warning("%s", notice)
        except ConfigError as error:
            if own == good:
                raise
            watch = self._watch(good, document, label)
            watch.text = own
            watch.refuse(error, quiet=own == self._blamed)
            self._blamed = own
        self._watches[namespace, name] = watch
        return watch

    def stand_in(self, namespace: str, name: str, error: Exception) -> ConfigWatch:
        """The default for a pool whose own configuration could not be put into force. Raises `error` where
        that was the default."""
        watch = self._watches[namespace, name]
        own, (good, document) = watch.text, self._good
        if own == good or watch.last_error:
            raise error
        made = self._watches[namespace, name] = self._watch(good, document, watch.pool)
        made.text = own
        made.refuse(error)
        return made

    def forget(self, namespace: str, name: str) -> None:
        """The pool is gone."""
        watch = self._watches.pop((namespace, name), None)
        if watch is not None:
            watch.counts.config_gone(watch.pool)

    async def run(self) -> None:
        """Until cancelled; at once where there is no file to watch."""
        if self._paths():
            await Watch("the configuration", self._folders, self._look).run()

    def _watch(self, text: Text, document: Document | None, label: str) -> ConfigWatch:
        return ConfigWatch(
            text, self._types, document=document, process=self.default.own, pool=label,
            allow_experimental=self._experimental, counts=self._counts,
        )  # fmt: skip

    def _judged(self, text: Text, document: Document | None = None) -> tuple[Text, Document]:
        """A default, read once for all pools, if it is good. Raises ConfigError."""
        document = document or read_text(text)
        assemble(document, self._types, self._experimental)
        return text, document

    def _text(self, namespace: str, name: str) -> Text:
        word = f"{namespace}.{name}" if namespace else name
        return self._texts.get(word) or self._texts[""]

    # Looking

    async def _look(self) -> None:
        texts = await self._settled()
        if texts is None:
            return
        self._texts = texts
        documents: dict[Text, Document | ConfigError] = {}
        pools: dict[Text, list[bool]] = {}
        """Whether each pool that a text was offered to took it."""
        now = time.time()
        default = texts[""]
        if default != self._good[0]:
            document = documents[default] = await asyncio.to_thread(_read, default)
            with suppress(ConfigError):  # every pool that it is for will say so
                if isinstance(document, Document):
                    self._good = self._judged(default, document)
        for (namespace, name), watch in list(self._watches.items()):
            text = self._text(namespace, name)
            if text == watch.text and not (watch.last_error and now - watch.refused_at >= RETRY_S):
                continue
            if text not in documents:
                documents[text] = await asyncio.to_thread(_read, text)
            if self._watches.get((namespace, name)) is watch:
                took = watch.offer(text, documents[text], quiet=text in pools)
                pools.setdefault(text, []).append(took)
            await asyncio.sleep(0)  # requests go between two of many pools
        for text, took_all in pools.items():
            if len(took_all) > 1:
                words = "%s was offered to %d pools; %d have another configuration in force now"
                _log.info(words, text.source, len(took_all), sum(took_all))

    async def _settled(self) -> Mapping[str, Text] | None:
        """What there is, once it stays; None where it is not to be known."""
        try:
            texts = await asyncio.to_thread(self._fetch)
            until = time.monotonic() + SETTLE_MAX_S
            while texts != self._texts and time.monotonic() < until:
                await self._pause(SETTLE_S)
                again = await asyncio.to_thread(self._fetch)
                if again == texts:
                    break
                texts = again
        except ConfigError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error("configurations stay as they were: %s", error)
            return None
        self._complaint = ""
        return texts

    def _fetch(self) -> dict[str, Text]:
        """By file name without its suffix; the default under the empty one. Raises ConfigError where the
        folder is not to be read, since a file that is gone means the default."""
        default, seen = self._default, {}
        texts: dict[str, Text] = {}
        if isinstance(default, Text):
            texts[""] = default
        else:
            seen[default] = self._file(default)
            texts[""] = seen[default].text
        left = MAX_CHARACTERS
        for path in self._inside():
            word = path.stem
            if path in seen:
                continue  # the default may stand among the others
            if word in texts or "." not in word:
                self._pass_by(path, texts)
                continue
            seen[path] = one = self._file(path)
            texts[word] = one.text
            left -= len(one.text.text)
            if left < 0:
                words = f"configurations of more than {MAX_CHARACTERS} characters"
                raise ConfigError([Problem(str(self._folder), None, (), words)])
        self._seen = seen
        return texts

    def _pass_by(self, path: Path, texts: Mapping[str, Text]) -> None:
        if path not in self._said and len(self._said) < MAX_FILES:
            self._said.add(path)
            other = texts.get(path.stem)
            why = f"{other.source} counts" if other else "it is for no pool; the form is namespace.pool.yaml"
            _log.warning("%s is passed by: %s", path, why)

    def _file(self, path: Path) -> _Seen:
        """As it was read before, where it has not changed since."""
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            stamp = (0, 0, 0)
        seen = self._seen.get(path)
        if seen is not None and stamp[2] and seen.holds(stamp):
            return seen
        read_at = time.time()
        try:
            text = Text(str(path), read_file(path))
        except ConfigError as error:
            text = Text(str(path), refused=error.problems[0].message)
        return _Seen(stamp, read_at, text)

    def _inside(self) -> Sequence[Path]:
        folder = self._folder
        if folder is None:
            return ()
        try:
            found = sorted(folder.iterdir())
        except OSError as error:
            words = f"cannot be read: {error.strerror or error}"
            raise ConfigError([Problem(str(folder), None, (), words)]) from error
        paths = [path for path in found if path.suffix in SUFFIXES and path.name[0] != "."]
        if len(paths) > MAX_FILES:
            raise ConfigError([Problem(str(folder), None, (), f"more than {MAX_FILES} configurations")])
        return paths

    def _paths(self) -> list[Path]:
        default = [self._default] if isinstance(self._default, Path) else []
        return [*default, *([self._folder] if self._folder is not None else [])]

    def _folders(self) -> list[Path]:
        """Of the default: beside it and what it links to. The folder itself, its own (where it may be
        replaced), and those that its links lead to."""
        folders: set[Path] = set()
        for path in self._paths():
            folders.update(folders_of(path))
        if self._folder is not None and self._folder.is_dir():
            folders |= {self._folder, self._folder.resolve()}
            folders.update({_beside(path) for path in list(self._seen)})
        return sorted(folder for folder in folders if folder.is_dir())


def _read(text: Text) -> Document | ConfigError:
    try:
        return read_text(text)
    except ConfigError as error:
        return error


def _beside(path: Path) -> Path:
    """Where the file itself is. Files of a mounted ConfigMap lie in one folder, behind a link each."""
    try:
        return (path.parent / path.readlink()).parent.resolve()
    except OSError:  # no link
        return path.parent
