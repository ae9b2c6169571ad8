"""Metrics of configurations that can be replaced while their pools run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from epp.telemetry import table
from epp.telemetry.series import Cell


@dataclass(slots=True)
class _Config:
    generation: int
    hash: int
    since: float
    """Seconds since 1970."""
    successful: bool = True
    reloads: int = 0
    refused: int = 0


class ConfigMetrics:
    """Told by the event loop of every load and every refusal; as many pools as there are."""

    def __init__(self) -> None:
        self._of: dict[str, _Config] = {}

    def config_loaded(self, pool: str, generation: int, text: str, at: float) -> None:
        """`text` is in force since `at`; for the first time, or after a reload."""
        known = self._of.get(pool)
        if known is None:
            self._of[pool] = _Config(generation, config_hash(text), at)
            return
        known.generation, known.hash, known.since = generation, config_hash(text), at
        known.successful = True
        known.reloads += 1

    def config_refused(self, pool: str) -> None:
        known = self._of.get(pool)
        if known is not None:
            known.successful = False
            known.refused += 1

    def config_gone(self, pool: str) -> None:
        self._of.pop(pool, None)

    def families(self) -> Iterator[tuple[str, Callable[[], Iterable[Cell]]]]:
        yield table.CONFIG_GENERATION.name, lambda: self._each(lambda one: one.generation)
        yield table.CONFIG_HASH.name, lambda: self._each(lambda one: one.hash)
        yield table.CONFIG_SUCCESSFUL.name, lambda: self._each(lambda one: int(one.successful))
        yield table.CONFIG_SINCE.name, lambda: self._each(lambda one: one.since)
        yield table.CONFIG_RELOADS.name, self._reloads

    def _each(self, value: Callable[[_Config], float]) -> list[Cell]:
        return [((pool,), value(one)) for pool, one in self._of.items()]

    def _reloads(self) -> list[Cell]:
        cells: list[Cell] = []
        for pool, one in self._of.items():
            cells += [((pool, "success"), one.reloads), ((pool, "failure"), one.refused)]
        return cells


def config_hash(text: str) -> int:
    """48 bits, which a float holds exactly."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
