"""Discovery from a file, read once or watched. A new file that is wrong is reported and the old one kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from epp.datalayer.endpoints_file import MAX_FILE_BYTES, EndpointsFileError, parse_endpoints
from epp.datalayer.watching import Watch, folders_of
from epp.domain.endpoint import EndpointSpec

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
        await Watch("the endpoints file", lambda: folders_of(self._path), self._look).run()

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
