"""Where failed questions to engines are counted: a Protocol for telemetry, and one that counts none."""

from __future__ import annotations

from typing import Protocol

from epp.domain.endpoint import Endpoint


class ScrapeErrors(Protocol):
    """Where errors are counted."""

    def poll_errors(self, source: str) -> None: ...

    def extract_errors(self, source: str, extractor: str) -> None: ...


class Reachability(Protocol):
    """Who is told that an endpoint's port has no listener, and that it has one again."""

    def refused(self, endpoint: Endpoint) -> None: ...

    def listens(self, endpoint: Endpoint) -> None: ...


class FirstTokens(Protocol):
    """Who follows the engines' own counts of first tokens."""

    @property
    def wants_counts(self) -> bool:
        """False: they need not be read."""

    def first_tokens(self, slot: int, count: float, total_s: float, now: float) -> None:
        """So many since the engine's start, and their seconds together."""


class Uncounted:
    """Counts nothing."""

    def poll_errors(self, source: str) -> None:
        pass

    def extract_errors(self, source: str, extractor: str) -> None:
        pass
