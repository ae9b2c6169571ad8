"""One step of an engine: its batch while it is in flight, what it did, and the totals over all."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from epp.sim.sequence import Sequence


@dataclass(slots=True)
class Step:
    """What one step did. Sequences are in the order of their admission."""

    began_at: float
    at: float
    """When it ended: the time of all its events."""
    first: Items[Sequence] = ()
    """Produced their very first token."""
    tokens: Items[Sequence] = ()
    """Produced one token, those in `first` included."""
    finished: Items[Sequence] = ()
    """Produced their last token."""
    prefill_tokens: int = 0
    decodes: int = 0
    """Sequences that decoded; the others in `tokens` ended their prefill."""


@dataclass(slots=True)
class Counters:
    """Totals since the start, as vLLM counts them. All in tokens but the last two."""

    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    steps: int = 0


@dataclass(slots=True)
class Batch:
    """The step in flight."""

    began_at: float
    """Engine time, seconds."""
    prefills: list[tuple[Sequence, int]] = field(default_factory=list)
    prefill_tokens: int = 0
    decodes: int = 0
