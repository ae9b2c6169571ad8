"""The last requests that we answered ourselves: what a client was told is looked up by its request id."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from math import inf
from time import time
from typing import Any

from msgspec import Struct

from epp.domain.errors import Refused

REFUSALS_MAX = 4096
ID_CHARS = 256
"""Clients choose ids; longer ones are kept, and found, by their beginning."""
MESSAGE_CHARS = 500


class Refusal(Struct, frozen=True, gc=False):
    request_id: str
    at: float
    """Seconds since 1970: to be compared with logs of clients and gateways."""
    status: int
    code: str
    dropped: str
    """The value of the drop-reason header; empty for none."""
    message: str
    retry_after_s: int
    model: str
    priority: int
    fairness_id: str
    waited_s: float
    """In a queue; 0 for one that never waited."""
    pool: str = ""
    """Where there are several."""

    def described(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "request_id": self.request_id,
            "at": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds"),
            "status": self.status,
            "reason": self.code,
            "dropped_reason": self.dropped or None,
            "message": self.message,
            "retry_after_s": self.retry_after_s or None,
            "model": self.model,
            "priority": self.priority,
            "fairness_id": self.fairness_id,
            "waited_s": round(self.waited_s, 6),
            **({"pool": self.pool} if self.pool else {}),
        }

    @property
    def line(self) -> str:
        flow = f", fairness id {self.fairness_id}" if self.fairness_id else ""
        waited = f", waited {self.waited_s:.3f} s" if self.waited_s else ""
        retry = f", Retry-After {self.retry_after_s} s" if self.retry_after_s else ""
        told = f"{self.status} {self.code}: {self.message}"
        pool = f"pool {self.pool}, " if self.pool else ""
        return _plain(f"{told} ({pool}priority {self.priority}{flow}{waited}{retry})")


class RefusalLog:
    """Bounded by number, and each entry by its texts' lengths."""

    def __init__(self, capacity: int = REFUSALS_MAX, wall: Callable[[], float] = time) -> None:
        self._ring: deque[Refusal] = deque(maxlen=capacity)
        self._wall = wall
        self._pool = ""

    def of(self, pool: str) -> RefusalLog:
        """The same log, for refusals of this pool: whoever looks is told."""
        log = RefusalLog(0, self._wall)
        log._ring, log._pool = self._ring, pool
        return log

    def __len__(self) -> int:
        return len(self._ring)

    def record(
        self,
        refused: Refused,
        request_id: str,
        *,
        model: str = "",
        priority: int = 0,
        fairness_id: str = "",
        waited_s: float = 0.0,
    ) -> None:
        """`waited_s` is infinite for one that waits still."""
        row = refused.reason.value
        self._ring.append(
            Refusal(
                request_id[:ID_CHARS], self._wall(), row.status, row.code, row.dropped,
                refused.message[:MESSAGE_CHARS], refused.retry_after_s, model[:ID_CHARS], priority,
                fairness_id[:ID_CHARS], waited_s if waited_s < inf else 0.0,
                self._pool,
            )
        )  # fmt: skip

    def find(self, request_id: str) -> Refusal | None:
        """Of several with one request id the last. Searches: asked for rarely."""
        wanted = request_id[:ID_CHARS]
        return next((one for one in reversed(self._ring) if one.request_id == wanted), None)

    def recent(self, n: int, pool: str = "") -> list[Refusal]:
        """The last n, of this pool where one is named, newest first."""
        found = (one for one in reversed(self._ring) if not pool or one.pool == pool)
        return list(islice(found, max(0, n)))


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
