"""Child processes that never outlive the demo, with their output in files.

Each child leads a process group of its own, so a Ctrl-C on the terminal reaches the demo alone and the demo
ends the children in its order. Should the demo die without a word, Linux kills them (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 5.0
"""Between asking a child to end and killing it."""
LAST_LINES = 12
_PR_SET_PDEATHSIG = 1


class ChildError(Exception):
    """A child ended by itself, or never came up. The message holds its last lines."""


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    process: asyncio.subprocess.Process
    log: Path

    def last_lines(self) -> str:
        with suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            return "\n".join(f"  {self.name}: {line[:400]}" for line in lines[-LAST_LINES:])
        return ""

    def signal(self, number: signal.Signals) -> None:
        """To the child and whatever it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Children:
    """The demo's children; `async with` ends all of them, whatever happened inside."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[Child] = []

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, name: str, argv: Sequence[str]) -> Child:
        """Starts it with its output in `directory/name.log`. Raises ChildError."""
        log = self.directory / f"{name}.log"
        with log.open("wb") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with(os.getpid()),
                )
            except OSError as error:
                raise ChildError(f"{name} could not be started: {error}") from error
        child = Child(name, process, log)
        self._children.append(child)
        return child

    async def first_death(self) -> ChildError:
        """Waits until any child ends."""
        waits = {asyncio.create_task(child.process.wait()): child for child in self._children}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            child = waits[done.pop()]
            return self.death_of(child)
        finally:
            for wait in waits:
                wait.cancel()

    def death_of(self, child: Child) -> ChildError:
        return ChildError(f"{child.name} ended with status {child.process.returncode}\n{child.last_lines()}")

    async def stop(self) -> None:
        """Asks all to end, last started first, and kills what has not after PATIENCE_S.

        Cancelled while waiting (a second Ctrl-C), it kills at once.
        """
        alive = [child for child in self._children if child.process.returncode is None]
        try:
            for child in reversed(alive):
                child.signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.gather(*(child.process.wait() for child in alive))
        finally:
            for child in alive:
                child.signal(signal.SIGKILL)  # also what one that just ended left in its group
            await asyncio.gather(*(child.process.wait() for child in alive))
            self._children.clear()


def _die_with(parent: int) -> Callable[[], None] | None:
    """What the child does between fork and exec: asks to be killed with its parent."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    kill = int(signal.SIGKILL)

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, kill, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return arrange
