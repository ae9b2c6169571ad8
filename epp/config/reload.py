"""The configuration of one pool while it runs: a new one is made whole before it takes the place of the old.

Whatever is wrong with a new text, the last good one stays in force, and the log has every mistake. Texts come
from `epp.config.sources`, which knows the files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from epp.config.catalog import Catalog
from epp.config.loaded import Loaded
from epp.config.loader import Document, assemble, read
from epp.config.own import OwnBlock
from epp.config.problems import ConfigError, Problem

PROBLEMS_SHOWN: Final = 50
"""Of one text, in the log."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Text:
    """What a source has now. `refused` says why there is nothing to read."""

    source: str
    """Its name in errors."""
    text: str = ""
    refused: str = ""


class Counts(Protocol):
    """Told of every load of a pool's configuration, the first included."""

    def config_loaded(self, pool: str, generation: int, text: str, at: float) -> None:
        """It is in force since `at`, in seconds since 1970."""

    def config_refused(self, pool: str) -> None:
        """The one before stays in force."""

    def config_gone(self, pool: str) -> None: ...


class Uncounted:
    def config_loaded(self, pool: str, generation: int, text: str, at: float) -> None:
        pass

    def config_refused(self, pool: str) -> None:
        pass

    def config_gone(self, pool: str) -> None:
        pass


def _ignore(loaded: Loaded) -> None:
    pass


class ConfigWatch:
    """Belongs to the event loop. Whoever runs the pool sets `on_loaded`; the first load is `loaded`."""

    def __init__(
        self,
        text: Text,
        plugin_types: Catalog,
        *,
        document: Document | None = None,
        process: OwnBlock | None = None,
        pool: str = "",
        allow_experimental: bool = False,
        counts: Counts | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`document` is the text when that was read already, `process` the block `epp:` of the default
        configuration. Raises ConfigError."""
        self.pool = pool
        """How metrics and the log call it."""
        self._types = plugin_types
        self._experimental = allow_experimental
        self.counts = counts or Uncounted()
        self._now = now
        self.text = text
        """What was last looked at, good or bad."""
        self.loaded = assemble(document or read_text(text), plugin_types, allow_experimental, process=process)
        """In force."""
        self._in_force = text
        self.generation = 1
        """Counts the configurations that have been in force."""
        self.last_error = ""
        """Why the last text was refused; empty when it is in force."""
        self.loaded_at = now()
        """Since when it is in force, in seconds since 1970."""
        self.refused_at = 0.0
        """When a text was last refused."""
        self.on_loaded: Callable[[Loaded], None] = _ignore
        """Puts it into force, or raises ValueError or OSError with all as it was before."""
        self._tell_loaded()

    def offer(
        self, text: Text, document: Document | ConfigError | None = None, *, quiet: bool = False
    ) -> bool:
        """Take what the source has now, if it is good. Answers whether another configuration is in force.

        `quiet`: the log has had it all, for another pool of the same text.
        """
        self.text = text
        level = logging.DEBUG if quiet else logging.INFO
        if text == self._in_force:
            if self.last_error:
                self.last_error = ""
                words = "%s is as it was when generation %d%s came"
                _log.log(level, words, text.source, self.generation, self._of())
                self._tell_loaded()
            return False
        try:
            if document is None:
                document = read_text(text)
            if isinstance(document, ConfigError):
                raise document
            loaded = assemble(document, self._types, self._experimental, self.loaded)
            self.on_loaded(loaded)
        except (ConfigError, ValueError, OSError) as error:
            self.refuse(error, quiet=quiet)
            return False
        except Exception as error:  # a fault of ours must not end what runs well
            _log.exception("the new configuration%s could not be put into force", self._of())
            self.refuse(error)
            return False
        self.loaded, self._in_force = loaded, text
        self.last_error, self.loaded_at = "", self._now()
        self.generation += 1
        _log.log(
            level,
            "%s: generation %d%s is in force; changed: %s; %d of %d plugins kept",
            loaded.source, self.generation, self._of(), loaded.changes, len(loaded.kept), len(loaded.built),
        )  # fmt: skip
        for notice in () if quiet else loaded.notices:
            _log.warning("%s", notice)
        self._tell_loaded()
        return True

    def refuse(self, error: Exception, *, quiet: bool = False) -> None:
        """A text cannot be used; the one before stays in force. The same reason is told once."""
        self.refused_at = self._now()
        words = str(error) or type(error).__name__
        if words == self.last_error:
            return
        self.last_error = words
        self.counts.config_refused(self.pool)
        level = logging.DEBUG if quiet else logging.ERROR
        _log.log(level, "configuration refused, generation %d%s stays in force", self.generation, self._of())
        if quiet:
            return
        lines = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else [words]
        for line in lines[:PROBLEMS_SHOWN]:
            _log.error("%s", line)
        if len(lines) > PROBLEMS_SHOWN:
            _log.error("... and %d mistakes more", len(lines) - PROBLEMS_SHOWN)

    def _tell_loaded(self) -> None:
        self.counts.config_loaded(self.pool, self.generation, self._in_force.text, self.loaded_at)

    def _of(self) -> str:
        return f" of pool {self.pool}" if self.pool else ""


def read_text(text: Text) -> Document:
    """Raises ConfigError."""
    if text.refused:
        raise ConfigError([Problem(text.source, None, (), text.refused)])
    return read(text.text, text.source)
