"""One run from its first request to its last: records, duration, and how the generator itself held up."""

from __future__ import annotations

import asyncio
import resource
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from epp.load.calls import Workload
from epp.load.client import ENDPOINT_HEADERS, Client
from epp.load.player import Limits, Player
from epp.load.records import Live, Record
from epp.load.transport import Pool

BEAT_S = 0.05
LATE_S = 0.02
"""A generator whose loop or whose sends are later than this (99 %) measures itself."""
BUSY = 0.85
"""Of one CPU; above this a single process soon falls behind."""


@dataclass(frozen=True, slots=True)
class Health:
    """Of the load generator, not of its target."""

    cpu_share: float
    """CPU seconds a second of wall time; one process can use little more than 1."""
    loop_late_p99_s: float
    """How late the event loop ran a timer: an error bar on every latency."""
    lag_p99_s: float
    """How late requests were sent."""

    def warnings(self, *, closed_loop: bool = False) -> list[str]:
        """Reasons not to trust the latencies, in words. In a closed loop waiting to send is intended."""
        found = []
        if self.cpu_share > BUSY:
            found.append(f"the load generator used {self.cpu_share:.0%} of a CPU and may be the bottleneck")
        if self.loop_late_p99_s > LATE_S:
            found.append(
                f"the load generator's loop was up to {self.loop_late_p99_s * 1000:.0f} ms late (p99): "
                "latencies carry that error"
            )
        if self.lag_p99_s > LATE_S and not closed_loop:
            found.append(
                f"requests were sent up to {self.lag_p99_s * 1000:.0f} ms late (p99): "
                "trust the rows counted from arrival"
            )
        return found


@dataclass(slots=True)
class Run:
    """What was played and what came of it."""

    records: list[Record] = field(default_factory=list)
    started_at: float = 0.0
    """Seconds since the epoch."""
    duration_s: float = 0.0
    """From the start to the last answer."""
    most_open: int = 0
    connections: int = 0
    health: Health = Health(0.0, 0.0, 0.0)
    interrupted: bool = False


async def play(
    pool: Pool,
    workload: Workload,
    limits: Limits,
    *,
    timeout_s: float = 600.0,
    endpoint_headers: Sequence[str] = ENDPOINT_HEADERS,
    name: str = "load",
    on_start: Callable[[Live, Callable[[], float]], None] | None = None,
) -> Run:
    """Plays the workload to its end. Cancelled, it returns what was measured until then, marked so.

    `on_start` is handed the live counters and the run's clock before anything is sent.
    """
    began = time.perf_counter()
    cpu = time.process_time()

    def clock() -> float:
        return time.perf_counter() - began

    run = Run(started_at=time.time())
    client = Client(pool, clock, timeout_s=timeout_s, endpoint_headers=endpoint_headers, run=name)
    player = Player(client, limits, run.records.append, clock)
    late = array("d")
    beat = asyncio.create_task(_beat(clock, late))
    if on_start is not None:
        on_start(player.live, clock)
    try:
        await player.run(workload)
    except asyncio.CancelledError:
        run.interrupted = True
        if (task := asyncio.current_task()) is not None:
            task.uncancel()  # it is answered here: the caller goes on to report
    finally:
        beat.cancel()
        with suppress(asyncio.CancelledError):
            await beat
    wall = clock()
    run.duration_s = max((record.ended_at for record in run.records), default=wall)
    run.most_open = player.live.most_open
    run.connections = pool.opened
    lags = [record.lag_s for record in run.records]
    run.health = Health((time.process_time() - cpu) / wall, _p99(late), _p99(lags))
    return run


async def _beat(clock: Callable[[], float], late: array[float]) -> None:
    """Notes how late a timer runs; the loop does nothing else in that time, receiving included."""
    while True:
        due = clock() + BEAT_S
        await asyncio.sleep(BEAT_S)
        late.append(max(0.0, clock() - due))


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99)) if len(values) else 0.0


def raise_open_files(wanted: int = 65_536) -> int:
    """Lets this process open as many sockets as it may; the limit that now holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        return limit
    return soft
