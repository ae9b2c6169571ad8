"""How much may wait: requests and bytes, in one band or in all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """None is unlimited; 0 lets nothing wait."""

    max_requests: int | None = None
    max_bytes: int | None = None


UNLIMITED = Limits()

BAND_LIMITS = Limits(max_requests=5000, max_bytes=1_000_000_000)
"""The reference picker's, for each band."""


class Held:
    """What waits now, against its limits."""

    __slots__ = ("bytes", "limits", "requests")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = 0
        self.bytes = 0

    def fits(self, size_bytes: int, less_requests: int = 0, less_bytes: int = 0) -> bool:
        """One more fits, once so many others have left."""
        limits = self.limits
        if limits.max_requests is not None and self.requests - less_requests >= limits.max_requests:
            return False
        return limits.max_bytes is None or self.bytes - less_bytes + size_bytes <= limits.max_bytes

    def add(self, size_bytes: int) -> None:
        self.requests += 1
        self.bytes += size_bytes

    def remove(self, size_bytes: int) -> None:
        self.requests -= 1
        self.bytes -= size_bytes

    @property
    def share_of_requests(self) -> float:
        """0..1; 0 when unlimited."""
        return _share(self.requests, self.limits.max_requests)

    @property
    def share_of_bytes(self) -> float:
        return _share(self.bytes, self.limits.max_bytes)


def _share(held: int, limit: int | None) -> float:
    if limit is None:
        return 0.0
    return held / limit if limit else 1.0
