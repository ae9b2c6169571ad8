"""A StreamSink that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class CountingSink:
    opened: int = 0
    closed: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    handed_off: int = 0
    open_connections: int = 0
    failed_handshakes: int = 0

    def stream_opened(self) -> None:
        self.opened += 1

    def stream_closed(self, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.closed.append(code)

    def streams(
        self, opened: int, closed: Mapping[str, int], durations: Sequence[int], total_s: float
    ) -> None:
        self.opened += opened
        assert sum(durations) == sum(closed.values())
        for code, count in closed.items():
            self.closed += [code] * count

    def handoffs(self, counts: Sequence[int], total_s: float) -> None:
        self.handed_off += sum(counts)

    def connections(self, now_open: int, failed: int) -> None:
        self.open_connections = now_open
        self.failed_handshakes += failed

    def protocol_violation(self, kind: str) -> None:
        self.violations.append(kind)

    def internal_error(self, where: str) -> None:
        self.errors.append(where)
