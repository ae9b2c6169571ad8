"""How much more the pool can take while one drain of the queues goes on.

A drain sends several requests before any of them shows in a metric or in the ledger, so it counts what it
has sent itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Room(Protocol):
    def saturation(self) -> float:
        """Load of the pool with all that was taken; 1.0 is full."""

    def take(self, requests: int, tokens: int) -> None:
        """So many more requests, of so many prompt tokens in all, are on their way."""


class Slots:
    """A fixed number of free places."""

    __slots__ = ("free",)

    def __init__(self, free: int) -> None:
        self.free = free

    def saturation(self) -> float:
        return 0.0 if self.free > 0 else 1.0

    def take(self, requests: int, tokens: int) -> None:
        self.free -= requests


class Rising:
    """A measured load that grows by the same step with every request or token. The first `unloaded` requests
    cost nothing: batches have room for them."""

    __slots__ = ("_load", "_per_request", "_per_token", "_requests", "_tokens", "_unloaded")

    def __init__(
        self, load: float, per_request: float, per_token: float = 0.0, unloaded: float = 0.0
    ) -> None:
        self._load = load
        self._per_request = per_request
        self._per_token = per_token
        self._unloaded = unloaded
        self._requests = 0
        self._tokens = 0

    def saturation(self) -> float:
        by_requests = max(0.0, self._requests - self._unloaded) * self._per_request
        return self._load + max(by_requests, self._tokens * self._per_token)

    def take(self, requests: int, tokens: int) -> None:
        self._requests += requests
        self._tokens += tokens


class Term(NamedTuple):
    """One of the limits of a pool: how far it is filled, and what requests and tokens add."""

    load: float
    per_request: float
    per_token: float = 0.0
    unloaded: float = 0.0
    """The first so many requests add nothing."""


class Filling:
    """A measured load under several limits, of which the one that is filled furthest counts. The load may be
    above all of them, as where endpoints are filled unevenly; then it grows as the highest does."""

    __slots__ = ("_excess", "_requests", "_terms", "_tokens")

    def __init__(self, load: float, terms: Sequence[Term]) -> None:
        self._excess = load - max(term.load for term in terms)
        self._terms = terms
        self._requests = 0
        self._tokens = 0

    def saturation(self) -> float:
        requests, tokens = self._requests, self._tokens
        return self._excess + max(
            load + max(0.0, requests - unloaded) * per_request + tokens * per_token
            for load, per_request, per_token, unloaded in self._terms
        )

    def take(self, requests: int, tokens: int) -> None:
        self._requests += requests
        self._tokens += tokens
