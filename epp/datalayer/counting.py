"""Where failed questions to engines are counted: a Protocol for telemetry, and one that counts none."""

from __future__ import annotations

from typing import Protocol


class ScrapeErrors(Protocol):
    """Where errors are counted."""

    def poll_errors(self, source: str) -> None: ...

    def extract_errors(self, source: str, extractor: str) -> None: ...


class Uncounted:
    """Counts nothing."""

    def poll_errors(self, source: str) -> None:
        pass

    def extract_errors(self, source: str, extractor: str) -> None:
        pass
