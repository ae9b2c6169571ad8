"""One measurement of the gateway benchmark: a load on one target, CPU seconds before and after."""

from __future__ import annotations

import json
import time
from pathlib import Path

import wrk
from gateway_cells import Cell, Measured
from gateway_stack import CHUNK_BYTES, CHUNKS_PER_S, STREAM_CHUNKS, Target

VARIANTS = 32
"""Different prompts a size, so that a prefix cache has something to tell apart."""
IDLE_S = 1.5
OPENING_S = 1.0


class Bodies:
    """Request bodies on disk, by size."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._paths: dict[float, list[Path]] = {}

    def of(self, size_kb: float) -> list[Path]:
        if size_kb not in self._paths:
            self._paths[size_kb] = []
            for variant in range(VARIANTS):
                path = self._directory / f"body-{size_kb:g}-{variant}"
                path.write_bytes(chat_body(size_kb, variant))
                self._paths[size_kb].append(path)
        return self._paths[size_kb]


def chat_body(size_kb: float, variant: int) -> bytes:
    """An OpenAI chat request of about that size; variants differ from their first words on."""
    frame = {"model": "bench", "messages": [{"role": "user", "content": ""}]}
    room = max(8, int(size_kb * 1024) - len(json.dumps(frame)))
    words = f"{variant:03d} " + "the quick brown fox " * (room // 20 + 1)
    frame["messages"] = [{"role": "user", "content": words[:room]}]
    return json.dumps(frame).encode()


def measure(target: Target, cell: Cell, bodies: Bodies, turn: int, seconds: int) -> Measured:
    with target.awake():
        if cell.stream:
            return _streams(target, cell, bodies, turn, seconds)
        return _requests(target, cell, bodies, turn, seconds)


def idle_us_per_s(target: Target, seconds: float = IDLE_S) -> float:
    """What the picker costs while nobody asks (epp scrapes its pool), in CPU us a second."""
    before = target.cpu_s()[1]
    time.sleep(seconds)
    return (target.cpu_s()[1] - before) * 1e6 / seconds


def _requests(target: Target, cell: Cell, bodies: Bodies, turn: int, seconds: int) -> Measured:
    before = target.cpu_s()
    load = wrk.start(target.port, bodies.of(cell.body_kb), connections=cell.connections, seconds=seconds)
    seen = wrk.result(load)
    spent = [(b - a) * 1e6 / max(seen.requests, 1) for a, b in zip(before, target.cpu_s(), strict=True)]
    return Measured(
        target.name, cell, turn, seen.requests, seen.seconds, seen.p50_ms, seen.p99_ms, seen.errors, *spent
    )


def _streams(target: Target, cell: Cell, bodies: Bodies, turn: int, seconds: int) -> Measured:
    """CPU a chunk in the middle of streams that are all open; bytes sent tell chunks."""
    idle = idle_us_per_s(target) if target.picker else 0.0
    window_s = max(3, min(seconds + 1, STREAM_CHUNKS // CHUNKS_PER_S - 3))
    load = wrk.start(
        target.port,
        bodies.of(cell.body_kb),
        connections=cell.connections,
        seconds=window_s + 2,
        stream=True,
    )
    time.sleep(OPENING_S)
    before, sent, began = target.cpu_s(), target.sent_bytes(), time.monotonic()
    time.sleep(window_s)
    after, took = target.cpu_s(), time.monotonic() - began
    framing = len(f"{CHUNK_BYTES:x}\r\n\r\n")
    chunks = max(target.sent_bytes() - sent, 1) / (CHUNK_BYTES + framing)
    seen = wrk.result(load)
    envoy_us, picker_us = ((b - a) * 1e6 for a, b in zip(before, after, strict=True))
    asking_us = max(0.0, picker_us - idle * took)
    return Measured(
        target.name, cell, turn, chunks, took, 0.0, 0.0, seen.errors, envoy_us / chunks, asking_us / chunks
    )
