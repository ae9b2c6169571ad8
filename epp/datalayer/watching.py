"""Waiting until files may have changed: any stir in their folders, or two quiet seconds, is a reason to look.

What is watched is folders, not files: editors replace a file by a rename, and Kubernetes swaps a symbolic
link beside it for a mounted ConfigMap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from watchfiles import awatch

LOOK_ANYWAY_MS = 2000
"""Also without an event, since network file systems may tell of none."""
_STEP_MS = 100
"""The watcher wakes so often; the change of a file is seen that late."""
_DEBOUNCE_MS = 200
_log = logging.getLogger(__name__)


class Watch:
    """Calls `look` whenever there may be something new in `folders`, which may themselves come and go."""

    def __init__(
        self, what: str, folders: Callable[[], Sequence[Path]], look: Callable[[], Awaitable[None]]
    ) -> None:
        """`what` is watched, in words for the log."""
        self._what = what
        self._folders = folders
        self._look = look
        self._blind = False
        """Watching failed; said once."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            folders = await asyncio.to_thread(self._folders)
            await self._look()  # something may have changed before the watch was on
            if not folders:  # unmounted, perhaps for a moment
                await asyncio.sleep(LOOK_ANYWAY_MS / 1000)
                continue
            try:
                await self._watch(folders)
            except (OSError, RuntimeError) as error:  # the machine's inotify instances are used up, say
                if not self._blind:
                    self._blind = True
                    _log.warning("%s is looked at every 2 s, watching it failed: %s", self._what, error)
                await asyncio.sleep(LOOK_ANYWAY_MS / 1000)

    async def _watch(self, folders: Sequence[Path]) -> None:
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


def folders_of(path: Path) -> list[Path]:
    """Where a change of the file `path` may show: beside it, and beside what it links to."""
    folders = {path.absolute().parent, path.resolve().parent}
    return sorted(folder for folder in folders if folder.is_dir())
