"""Discovery from a file, read once or watched. A new file that is wrong is reported and the old one kept.

What is watched is the folder, not the file: editors replace it by a rename, and Kubernetes swaps a symbolic
link beside it for a mounted ConfigMap. Any stir there, or two quiet seconds, is a reason to compare the
bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from watchfiles import awatch

from epp.datalayer.endpoints_file import MAX_FILE_BYTES, EndpointsFileError, parse_endpoints
from epp.domain.endpoint import EndpointSpec

LOOK_ANYWAY_MS = 2000
"""Also without an event, since network file systems may tell of none."""
_STEP_MS = 100
"""The watcher wakes so often; the change of a file is seen that late."""
_DEBOUNCE_MS = 200
_log = logging.getLogger(__name__)


class FileDiscovery:
    """Calls `found` with the file's entries at the start and after each valid change."""

    def __init__(
        self,
        path: str | Path,
        found: Callable[[Sequence[EndpointSpec]], None],
        *,
        watch: bool = False,
        refused: Callable[[EndpointsFileError], None] | None = None,
    ) -> None:
        """`refused` is told of every new file that was not taken (to count it); it is logged in any case."""
        self._path = Path(path)
        self._found = found
        self._refused = refused
        self._watch = watch
        self._data: bytes | None = None
        """What was last looked at, good or bad."""
        self._complaint = ""
        """Why it could not be read last time; said once."""
        self._blind = False
        """Watching failed; said once."""

    def load(self) -> None:
        """Read the file now. Raises EndpointsFileError when it is not there or not right."""
        data = self._read()
        specs = parse_endpoints(data, str(self._path))
        self._data = data
        self._found(specs)

    async def run(self) -> None:
        """Load if that was not done, then watch until cancelled; returns at once when not asked to watch.

        Raises EndpointsFileError from the first load only.
        """
        if self._data is None:
            self.load()
        if not self._watch:
            return
        while True:
            folders = await asyncio.to_thread(self._folders)
            await self._look()  # something may have changed before the watch was on
            if not folders:  # unmounted, perhaps for a moment
                await asyncio.sleep(LOOK_ANYWAY_MS / 1000)
                continue
            try:
                await self._watch_folders(folders)
            except (OSError, RuntimeError) as error:  # the machine's inotify instances are used up, say
                if not self._blind:
                    self._blind = True
                    _log.warning("the endpoints file is looked at every 2 s, watching it failed: %s", error)
                await asyncio.sleep(LOOK_ANYWAY_MS / 1000)

    async def _watch_folders(self, folders: Sequence[Path]) -> None:
        """Returns when other folders are to be watched."""
        async for _ in awatch(
            *folders,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=LOOK_ANYWAY_MS,
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        ):
            await self._look()
            if await asyncio.to_thread(self._folders) != folders:
                return

    async def _look(self) -> None:
        try:
            data = await asyncio.to_thread(self._read)
            if data == self._data and not self._complaint:
                return
            self._data, self._complaint = data, ""
            specs = parse_endpoints(data, str(self._path))
        except EndpointsFileError as error:
            if str(error) == self._complaint:
                return
            self._complaint = str(error)
            _log.warning("endpoints file refused, the old one stays in force: %s", error)
            if self._refused is not None:
                self._refused(error)
            return
        _log.info("endpoints file %s has changed: %d entries", self._path, len(specs))
        self._found(specs)

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise EndpointsFileError(str(self._path), 0, error.strerror or str(error)) from error

    def _folders(self) -> list[Path]:
        """Where a change may show: beside the file, and beside what it links to."""
        folders = {self._path.absolute().parent, self._path.resolve().parent}
        return sorted(folder for folder in folders if folder.is_dir())
