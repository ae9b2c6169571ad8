"""What is kept of every request that was played."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field


@dataclass(slots=True)
class Record:
    """One request. Instants are seconds since the start of the run."""

    session: str
    turn: int
    model: str
    intended_at: float
    """When the workload wanted it sent; what lies between this and `sent_at` is the generator's own delay."""
    sent_at: float
    ended_at: float = 0.0
    first_token_at: float | None = None
    """None for answers that are not streamed, and where no token came."""
    status: int = 0
    """HTTP status; 0 where no answer head came."""
    error: str = ""
    """Empty for a complete answer with status 200; else one short word for counting."""
    detail: str = ""
    input_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0
    endpoint: str = ""
    retry_after: str = ""
    gaps: array[float] = field(default_factory=lambda: array("d"))

    @property
    def ok(self) -> bool:
        return not self.error

    @property
    def lag_s(self) -> float:
        return self.sent_at - self.intended_at

    @property
    def e2e_s(self) -> float:
        return self.ended_at - self.sent_at

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token_at is None else self.first_token_at - self.sent_at

    @property
    def tpot_s(self) -> float | None:
        """Mean time of every output token after the first."""
        if self.first_token_at is None or self.output_tokens < 2:
            return None
        return (self.ended_at - self.first_token_at) / (self.output_tokens - 1)


@dataclass(slots=True)
class Live:
    """Counters that a progress display may read at any time."""

    sent: int = 0
    open: int = 0
    done: int = 0
    errors: int = 0
    output_tokens: int = 0
    sessions: int = 0
    """Sessions that are answering or thinking."""
    most_open: int = 0
    ttft_sum_s: float = 0.0
    ttft_count: int = 0

    def finished(self, record: Record) -> None:
        self.open -= 1
        self.done += 1
        self.output_tokens += record.output_tokens
        if record.error:
            self.errors += 1
        ttft = record.ttft_s
        if ttft is not None:
            self.ttft_sum_s += ttft
            self.ttft_count += 1

    @property
    def mean_ttft_s(self) -> float:
        return self.ttft_sum_s / self.ttft_count if self.ttft_count else 0.0
