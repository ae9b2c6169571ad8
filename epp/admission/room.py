"""How much more the pool can take while one drain of the queues goes on.

A drain sends several requests before any of them shows in a metric or in the ledger, so it counts what it
has sent itself.
"""

from __future__ import annotations

from typing import Protocol


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
