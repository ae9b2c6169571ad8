"""What this process is doing, sampled from outside: the Python counterpart of Go's pprof pages.

A thread looks at every thread's stack at a fixed rate; the answer is text in the collapsed-stack form that
flame graph tools read (`a;b;c count`). The samples cost a few microseconds each, and nothing when off.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections import Counter
from types import FrameType

RATE_HZ = 100
SECONDS_MAX = 60.0
DEPTH_MAX = 100
STACKS_MAX = 10_000


def sample(seconds: float, rate_hz: int = RATE_HZ) -> str:
    """Blocks for `seconds`; run it in a thread. One line per distinct stack, the most frequent first."""
    stacks: Counter[str] = Counter()
    own = threading.get_ident()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    pause = threading.Event()
    end = time.monotonic() + seconds
    while True:
        for ident, frame in sys._current_frames().items():
            if ident != own:
                stack = f"{names.get(ident, 'thread')};{_collapsed(frame)}"
                if stack in stacks or len(stacks) < STACKS_MAX:
                    stacks[stack] += 1
        if time.monotonic() >= end:
            break
        pause.wait(1 / rate_hz)
    return "".join(f"{stack} {count}\n" for stack, count in stacks.most_common())


def _collapsed(frame: FrameType | None) -> str:
    parts: list[str] = []
    while frame is not None and len(parts) < DEPTH_MAX:
        code = frame.f_code
        parts.append(f"{frame.f_globals.get('__name__', '?')}.{code.co_qualname}:{frame.f_lineno}")
        frame = frame.f_back
    return ";".join(reversed(parts))


def threads() -> str:
    """The stack of every thread now."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )


def tasks() -> str:
    """Every asyncio task of the running loop and where it waits; at most STACKS_MAX are counted."""
    waiting: Counter[str] = Counter()
    for task in list(asyncio.all_tasks())[:STACKS_MAX]:
        frames = task.get_stack(limit=1)
        code = frames[-1].f_code if frames else None
        at = f"{code.co_filename}:{frames[-1].f_lineno} {code.co_qualname}" if code else "(finished)"
        waiting[at] += 1
    return "".join(f"{count} {at}\n" for at, count in waiting.most_common())
