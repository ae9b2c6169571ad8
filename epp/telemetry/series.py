"""Where numbers are counted: plain lists and dicts that the one event loop writes, read at scrape time.

Written for the request path: an observation is one bisect and two additions. Not safe for threads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from epp.telemetry import table
from epp.telemetry.buckets import Bounds

OTHER = "other"
"""Label value of everything beyond a cardinality limit."""
LABEL_CHARS = 256
"""Longer label values count as `other`."""
TOKENS_MAX = 1 << 40
"""Token counts outside [0, this) are lies of the engine and are not counted."""

Key: TypeAlias = tuple[str, ...]


class Histogram:
    """Counts by bucket, not cumulated; the last is for what lies above every bound."""

    __slots__ = ("_edges", "bounds", "counts", "total")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        # Of one kind, whole numbers for counts: Python compares int with float three times as slowly.
        self._edges = bounds if all(type(bound) is int for bound in bounds) else tuple(map(float, bounds))
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._edges, value)] += 1
        self.total += value

    def add(self, other: Histogram) -> None:
        self.add_counts(other.counts, other.total)

    def add_counts(self, counts: Sequence[int], total: float) -> None:
        """What somebody else counted by the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
        self.total += total

    @property
    def count(self) -> int:
        return sum(self.counts)


Cell: TypeAlias = tuple[Key, "float | Histogram"]


class Names:
    """At most `limit` distinct values of a label that clients can make up; the rest become `other`."""

    __slots__ = ("_admitted", "_known", "_left", "_pins")

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._admitted: set[str] = {"", OTHER}
        self._known = set(self._admitted)
        self._pins: dict[str, frozenset[str]] = {}

    def pin(self, names: Iterable[str], owner: str = "") -> None:
        """These are always shown and take no room from others; in place of what the owner pinned before."""
        before = self._pins.pop(owner, frozenset())
        now = frozenset(names)
        if now:
            self._pins[owner] = now
            self._known |= now
        gone = before - now - self._admitted
        if gone:
            self._known -= gone.difference(*self._pins.values())

    def pinned(self, owner: str = "") -> frozenset[str]:
        return self._pins.get(owner, frozenset())

    def __call__(self, name: str) -> str:
        if name in self._known:
            return name
        if self._left <= 0 or len(name) > LABEL_CHARS:
            return OTHER
        self._left -= 1
        self._admitted.add(name)
        self._known.add(name)
        return name


class RequestMeter:
    """Everything counted about requests of one (model, target model, fairness id, priority)."""

    __slots__ = (
        "_running", "_total", "answer_size", "cached_tokens", "duration", "errors", "input_tokens", "itl",
        "key", "ntpot", "output_tokens", "request_size", "tpot", "ttft", "ttft_streaming",
    )  # fmt: skip

    def __init__(self, key: Key) -> None:
        self.key = key
        self._total = 0
        self._running = 0
        self.errors: dict[str, int] = {}
        self.duration = Histogram(table.DURATION.bounds)
        self.request_size = Histogram(table.REQUEST_SIZE.bounds)
        self.answer_size = Histogram(table.ANSWER_SIZE.bounds)
        self.input_tokens = Histogram(table.INPUT_TOKENS.bounds)
        self.output_tokens = Histogram(table.OUTPUT_TOKENS.bounds)
        self.cached_tokens = Histogram(table.CACHED_TOKENS.bounds)
        self.ntpot = Histogram(table.NTPOT.bounds)
        self.ttft = Histogram(table.TTFT.bounds)
        self.ttft_streaming = Histogram(table.TTFT.bounds)
        self.tpot = Histogram(table.TPOT.bounds)
        self.itl = Histogram(table.ITL.bounds)
        """Pauses between the pieces of streamed answers."""

    @property
    def requests(self) -> int:
        return self._total

    @property
    def running(self) -> int:
        return self._running

    def started(self, size_bytes: int) -> None:
        """An endpoint was chosen and the request goes on. Must be followed by exactly one `finished`."""
        self._total += 1
        self._running += 1
        self.request_size.observe(float(size_bytes))

    def error(self, code: str) -> None:
        """A refusal (Reason.canonical) or a failure of the model server (`ModelServerError`)."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def finished(
        self,
        seconds: float,
        *,
        streaming: bool = False,
        ttft_s: float | None = None,
        response_bytes: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int | None = None,
    ) -> None:
        """The answer of a started request is over. None: not known, not counted.

        `seconds` and `ttft_s` count from the request's headers; without streaming the time to the first
        token is `seconds`. A request without any answer passes neither ttft_s nor response_bytes.
        """
        self._running -= 1
        self.duration.observe(seconds)
        if response_bytes is not None:
            self.answer_size.observe(response_bytes)
        if ttft_s is not None:
            (self.ttft_streaming if streaming else self.ttft).observe(ttft_s if streaming else seconds)
        if input_tokens is not None and 0 <= input_tokens < TOKENS_MAX:
            self.input_tokens.observe(input_tokens)
        if cached_tokens is not None and 0 <= cached_tokens < TOKENS_MAX:
            self.cached_tokens.observe(cached_tokens)
        if output_tokens is not None and 0 <= output_tokens < TOKENS_MAX:
            self.output_tokens.observe(output_tokens)
            if output_tokens:
                self.ntpot.observe(seconds / output_tokens)
                if streaming and ttft_s is not None and output_tokens > 1:
                    self.tpot.observe((seconds - ttft_s) / (output_tokens - 1))
