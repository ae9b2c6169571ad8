"""A file with secrets, watched, so that one can be replaced by another without a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from epp.datalayer.watching import Watch, folders_of

_log = logging.getLogger(__name__)

Secrets: TypeAlias = tuple[bytes, ...]


class SecretFile:
    """Calls `found` with what `read` gives when that has changed. A file that is wrong changes nothing."""

    def __init__(
        self,
        path: str | Path,
        read: Callable[[], Secrets],
        found: Callable[[Secrets], None],
        *,
        held: Secrets = (),
    ) -> None:
        """`read` raises ValueError, without a word of what it read; `held` is known already."""
        self._path = Path(path)
        self._read = read
        self._found = found
        self._held = held
        self._complaint = ""
        """Why it was refused last time; said once."""

    async def run(self) -> None:
        """Watch until cancelled."""
        await Watch(str(self._path), lambda: folders_of(self._path), self._look).run()

    async def _look(self) -> None:
        try:
            secrets = await asyncio.to_thread(self._read)
        except ValueError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("the secrets before stay in force: %s", error)
            return
        self._complaint = ""
        if secrets != self._held:
            self._held = secrets
            self._found(secrets)
            _log.info("%s has changed: it holds %d secrets", self._path, len(secrets))
