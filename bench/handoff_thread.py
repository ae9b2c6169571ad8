"""`epp` with the other hand-off, for comparison: a thread of Python's waits for events and calls the door.

    python bench/handoff_thread.py serve --transport native ...

The thread waits without the GIL and decides under a lock, at once, instead of when the event loop comes by.
What it calls is shared with the loop, with no more protection than the GIL gives: good enough to time, not to
serve. Verdicts that must wait (queues) are not supported.
"""

from __future__ import annotations

import select
import threading

from epp import app
from epp.__main__ import main
from epp.extproc.native import NativeTransport


class ThreadedTransport(NativeTransport):
    """Looks for events on a thread of its own."""

    async def start(self) -> None:
        await super().start()
        assert self._loop is not None
        self._loop.remove_reader(self._server.wake_fd)
        self._over = threading.Event()
        self._deciding = threading.Lock()
        self._thread = threading.Thread(target=self._wait_for_events, name="extproc-door", daemon=True)
        self._thread.start()

    async def stop(self, grace_s: float) -> None:
        # The end of the native thread is told to the loop.
        self._over.set()
        self._thread.join()
        assert self._loop is not None
        self._loop.add_reader(self._server.wake_fd, self._look)
        await super().stop(grace_s)

    def _wait_for_events(self) -> None:
        poll = select.poll()
        poll.register(self._server.wake_fd, select.POLLIN)
        while not self._over.is_set():
            if poll.poll(200):
                with self._deciding:
                    self._look()


if __name__ == "__main__":
    app.NativeTransport = ThreadedTransport  # type: ignore[attr-defined]
    main()
