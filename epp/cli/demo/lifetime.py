"""From the first child to the last: what every demo does around its scene."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click
import uvloop
from rich.console import Console

from epp.cli.demo.gateway import GatewayMissingError
from epp.cli.demo.processes import ChildError, Children
from epp.load.run import raise_open_files

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What all demos are told on the command line."""

    seconds: float
    """Length of each run."""
    seed: int
    port: int
    """Of the gateway."""
    output: Path | None
    leave: bool
    """Do not stay once all was shown."""


Work = Callable[[Children], Awaitable[bool]]
"""The scene; True for success."""


def perform(console: Console, work: Work) -> int:
    """The exit status of the process. Raises click.ClickException."""
    raise_open_files()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            succeeded = runner.run(_interruptible(console, work))
    except (GatewayMissingError, ChildError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except asyncio.CancelledError:
        sys.exit(130)
    return 0 if succeeded else 1


async def while_alive(children: Children, work: Coroutine[None, None, T]) -> T:
    """The work's result. Raises ChildError as soon as a child ends."""
    playing = asyncio.create_task(work)
    death = asyncio.create_task(children.first_death())
    try:
        await asyncio.wait({playing, death}, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            raise death.result()
        return playing.result()
    finally:
        for task in (playing, death):
            task.cancel()
        await asyncio.gather(playing, death, return_exceptions=True)


async def stay(console: Console, children: Children, invitation: Sequence[str]) -> None:
    """Until Ctrl-C. Raises ChildError as soon as a child ends."""
    console.print("\n".join(invitation), markup=False, highlight=False, soft_wrap=True)
    with suppress(asyncio.CancelledError):
        raise await children.first_death()
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()  # Ctrl-C is how this is meant to end
    console.print("\nstopping")


async def _interruptible(console: Console, work: Work) -> bool:
    """Cancelled by SIGINT, SIGTERM and SIGHUP alike, so that the children are always ended in order."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    directory = Path(tempfile.mkdtemp(prefix="epp-demo-"))
    try:
        async with Children(directory) as children:
            succeeded = await work(children)
    except BaseException as error:
        if isinstance(error, ChildError):
            console.print(f"The logs are in {directory}", markup=False)
        else:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    if succeeded:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        console.print(f"The logs are in {directory}", markup=False)
    return succeeded
