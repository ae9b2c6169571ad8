"""What one scrape of one engine said, after the lies were taken out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Load:
    """None: the engine did not report it (or it was a lie), and the last value is kept.

    `waiting` and `running` are requests, `kv_used` is a share 0..1, `block_size` is in tokens.
    """

    waiting: float | None = None
    running: float | None = None
    kv_used: float | None = None
    block_size: int | None = None
    num_blocks: int | None = None
    lora_max: int | None = None
    lora_running: frozenset[str] | None = None
    lora_waiting: frozenset[str] | None = None
    missing: tuple[str, ...] = ()
    """Signals that this engine should report and did not."""
    lies: tuple[str, ...] = ()
    """Signals whose value cannot be true (NaN, infinite, negative, giant)."""

    @property
    def fresh(self) -> bool:
        """Whether the metrics count as renewed: something was reported and nothing was a lie."""
        return not self.lies and not (self.waiting is None and self.running is None and self.kv_used is None)
