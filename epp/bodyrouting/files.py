"""Base models from a file, watched. A new file that is wrong is reported, what was before stays in force."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from epp.bodyrouting.basemodels import BaseModels, read_file
from epp.config.problems import ConfigError
from epp.datalayer.watching import Watch, folders_of

MAX_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class BaseModelsFile:
    def __init__(self, path: Path, models: BaseModels) -> None:
        self._path = path
        self._models = models
        self._data: bytes | None = None
        """What was last looked at, good or bad."""
        self._complaint = ""
        """Why it was not taken last time; said once."""

    def load(self) -> None:
        """Read it now. Raises ValueError when it is not there or not right."""
        data = self._read()
        self._take(data)
        self._data = data

    async def run(self) -> None:
        """Watch until cancelled."""
        await Watch("the file of base models", lambda: folders_of(self._path), self._look).run()

    async def _look(self) -> None:
        try:
            data = await asyncio.to_thread(self._read)
            if data == self._data and not self._complaint:
                return
            self._data, self._complaint = data, ""
            self._take(data)
        except ValueError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("base models refused, those before stay in force: %s", error)
            return
        _log.info("base models of %s have changed: %d names", self._path, len(self._models))

    def _take(self, data: bytes) -> None:
        try:
            families = read_file(data.decode("utf-8-sig"), str(self._path))
        except UnicodeDecodeError:
            raise ValueError(f"{self._path}: not UTF-8") from None
        except ConfigError as error:
            raise ValueError(str(error)) from None
        for notice in self._models.replace(families):
            _log.warning("base models: %s", notice)

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(f"{self._path}: {error.strerror or error}") from error
        if len(data) > MAX_BYTES:
            raise ValueError(f"{self._path}: larger than {MAX_BYTES} bytes")
        return data
