"""The end of a process that serves ext_proc: told to stop, it serves on until no gateway needs it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from time import monotonic

from epp.extproc.transport import Transport

log = logging.getLogger("epp.extproc")

QUIET_S = 3.0
"""Without open streams a process goes this long after SIGTERM: gateways check health every second or two."""
_TICK_S = 0.05


class Drain:
    """Belongs to the event loop. `begun`: it was told to stop, and is not ready any more."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._patient = True
        self.begun = False

    def stop(self, *, patient: bool) -> None:
        """Begin to drain; asked twice, end at once. `patient`: gateways get a moment to notice."""
        if self._stop.is_set():
            self._stop_now.set()
        self._patient = patient
        self._stop.set()

    def stop_on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self.stop(patient=True))
        loop.add_signal_handler(signal.SIGINT, lambda: self.stop(patient=False))

    async def over(self, transport: Transport, begun: Callable[[], None] = lambda: None) -> None:
        """Returns when it was told to stop and no stream is open any more, or at the deadline. `begun` is
        called when it was told."""
        await self._stop.wait()
        self.begun = True
        begun()
        deadline = monotonic() + self._timeout_s
        log.info("draining for at most %g s, open streams: %d", self._timeout_s, transport.open_streams)
        quiet_since, opened = monotonic(), transport.opened_streams
        while not self._stop_now.is_set() and (now := monotonic()) < deadline:
            if transport.open_streams or transport.opened_streams != opened:
                quiet_since, opened = now, transport.opened_streams
            elif now - quiet_since >= (QUIET_S if self._patient else 0.0):
                break
            await asyncio.sleep(_TICK_S)
