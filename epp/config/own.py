"""The block `epp:` of a configuration: what this picker adds to the reference picker's format."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from epp.config.quantities import PositiveDuration, PositiveQuantity


class _Block(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class Limits(_Block, frozen=True):
    """What clients can make grow."""

    max_body_bytes: PositiveQuantity = 128 * 1024 * 1024
    """Larger request bodies are refused with 413. Above the 64 MB that long multimodal prompts reach."""
    max_streams: Annotated[int, Meta(ge=1)] = 10_000
    """Requests at once; further ones get 429."""
    progress_timeout: PositiveDuration = 600.0
    """Seconds that a stream may last without any message before it is ended."""


class Outliers(_Block, frozen=True):
    """Avoidance of endpoints that fail real requests."""

    enabled: bool = True
    max_avoided_share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """At most this share of the pool is avoided at once."""


class ScrapeBudget(_Block, frozen=True):
    cpu_share: Annotated[float, Meta(gt=0, le=1)] = 0.25
    """Share of one core that scraping may use; the interval grows with the pool to keep it."""


class OwnBlock(_Block, frozen=True):
    limits: Limits = Limits()
    outliers: Outliers = Outliers()
    scrape: ScrapeBudget = ScrapeBudget()
    decision_log_size: Annotated[int, Meta(ge=0, le=1_000_000)] = 4096
    """Decisions kept for /debug/decisions; 0 keeps none."""
    reasons_header: bool = False
    """Send the decision's reasons back in an answer header."""
