"""One load of the gateway benchmark, and what was measured under it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One load: closed loop with bodies of a size, or paced streams."""

    connections: int
    body_kb: float
    stream: bool = False

    @property
    def name(self) -> str:
        if self.stream:
            return f"{self.connections} streams"
        return f"{self.connections} x {self.body_kb:g} KB"


@dataclass(frozen=True, slots=True)
class Measured:
    """One target under one load once. `units` are requests, or chunks of streams."""

    target: str
    cell: Cell
    turn: int
    units: float
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    envoy_us: float
    """CPU microseconds of the gateway a unit."""
    picker_us: float
    """CPU microseconds of the picker a unit; 0 without one."""

    @property
    def per_s(self) -> float:
        return self.units / self.seconds
