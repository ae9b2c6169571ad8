"""A StreamSink that counts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class CountingSink:
    opened: int = 0
    closed: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def stream_opened(self) -> None:
        self.opened += 1

    def stream_closed(self, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.closed.append(code)

    def protocol_violation(self, kind: str) -> None:
        self.violations.append(kind)

    def internal_error(self, where: str) -> None:
        self.errors.append(where)
