"""The loads of the gateway benchmark, which targets each is for, and what was measured under it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stack import DEPLOY

TARGETS = ("plain", "responder", "canned", "epp", "grpcio")
"""No picker; logic-free grpc.aio; the compiled transport without Python; epp on each of its transports."""
DUPLEX = DEPLOY / "standalone.yaml"
BUFFERED = DEPLOY / "buffered.yaml"
UNSEEN = DEPLOY / "ends.yaml"
"""Bodies of answers are not sent to the picker."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One load: closed loop with bodies of a size, or paced streams."""

    connections: int
    body_kb: float
    stream: bool = False
    config: Path = DUPLEX
    targets: tuple[str, ...] = field(default=TARGETS, compare=False)
    """Whom a wanted ratio or its limit needs."""

    @property
    def name(self) -> str:
        load = "streams" if self.stream else f"x {self.body_kb:g} KB"
        return f"{self.connections} {load}, {self.config.stem}"


SMALL = Cell(16, 0.1)
MEDIUM = Cell(16, 32)
LONG = Cell(16, 400)
GATHERED = Cell(16, 400, config=BUFFERED, targets=("plain", "canned", "epp", "grpcio"))
BUSY = Cell(64, 0.1, targets=("responder", "canned", "epp", "grpcio"))
ALONE = Cell(1, 0.1)
SEEN = Cell(64, 0.1, stream=True)
NOT_SEEN = Cell(64, 0.1, stream=True, config=UNSEEN, targets=("plain", "canned", "epp", "grpcio"))
CELLS = (ALONE, SMALL, BUSY, MEDIUM, LONG, GATHERED, SEEN, NOT_SEEN)
QUICK = (SMALL, LONG, SEEN)


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
    """CPU microseconds of the picker a unit, 0 without one. Of chunks: above what it spends while idle."""

    @property
    def per_s(self) -> float:
        return self.units / self.seconds
