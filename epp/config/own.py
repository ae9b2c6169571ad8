"""The block `epp:` of a configuration: what this picker adds to the reference picker's format."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from epp.config.decode import FieldError
from epp.config.quantities import Duration, PositiveDuration, PositiveQuantity
from epp.config.trust import HEADER, Trust
from epp.datalayer.observation.sampling import INTERVAL_S, RATE
from epp.datalayer.observation.timings import PREFILL_RATE
from epp.datalayer.outliers import BASE_S, CAP_S
from epp.datalayer.pace import BUDGET
from epp.telemetry.reasons import DECISIONS_MAX

_DNS_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class _Block(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class Limits(_Block, frozen=True):
    """What gateways and clients can make grow; the defaults are the transport's."""

    max_body_bytes: PositiveQuantity = 64 << 20
    """Larger request bodies are refused with 413."""
    max_buffered_bytes: PositiveQuantity = 1 << 30
    """Of bodies that we hold, all requests together; further ones get 429. At least maxBodyBytes."""
    max_streams: Annotated[int, Meta(ge=1)] = 20_000
    """Requests at once; further ones get 429."""
    progress_timeout: PositiveDuration = 60.0
    """Seconds that an upload may stand still before it is answered with 408."""
    answer_timeout: PositiveDuration = 3600.0
    """Seconds without any message from the model server before the stream is cut off."""
    max_connection_age: Duration = 300.0
    """Seconds after which a gateway's connection takes no new requests, give or take a tenth: it opens
    another one, perhaps to another replica; what is open ends in its own time. 0: connections stay."""

    def __post_init__(self) -> None:
        if self.max_buffered_bytes < self.max_body_bytes:
            raise FieldError(
                "maxBufferedBytes",
                f"maxBufferedBytes ({self.max_buffered_bytes} bytes) is less than maxBodyBytes "
                f"({self.max_body_bytes} bytes)",
            )


class Outliers(_Block, frozen=True):
    """Avoidance of endpoints that fail real requests."""

    enabled: bool = True
    base_time: PositiveDuration = BASE_S
    """Seconds of the first avoidance; each further one doubles."""
    max_time: PositiveDuration = CAP_S

    def __post_init__(self) -> None:
        if self.max_time < self.base_time:
            raise FieldError("maxTime", "maxTime is shorter than baseTime")


class Scraping(_Block, frozen=True):
    cpu_share: Annotated[float, Meta(gt=0, le=1)] = BUDGET
    """Share of one core that scraping may use; the interval grows with the pool to keep it."""
    server_name: str = ""
    """Name that the engines' certificates are for, where they are verified; empty for each one's address."""

    def __post_init__(self) -> None:
        if self.server_name and not _DNS_NAME.fullmatch(self.server_name):
            raise FieldError("serverName", f"{self.server_name!r} is not the name of a host")


class Always(_Block, frozen=True):
    """Requests whose answer is looked at wherever the gateway permits it, so that their usage is known."""

    header: str = ""
    """Of this name, whatever its value."""
    models: list[str] = []
    """As the client or, after a rewrite, the engine names them."""
    objectives: list[str] = []
    """Values of x-llm-d-inference-objective (or x-gateway-inference-objective)."""

    def __post_init__(self) -> None:
        if self.header and not HEADER.fullmatch(self.header.lower()):
            raise FieldError("header", f"{self.header!r} is not the name of a header")


class Observe(_Block, frozen=True):
    """Which answers are looked at as they pass by: docs/modes.md."""

    SHORT: ClassVar[str] = "mode"
    """`observe: sampled` says this field alone."""
    mode: Literal["auto", "all", "sampled", "ends"] = "auto"
    sample_interval: PositiveDuration = INTERVAL_S
    """Seconds between two samples of one endpoint and model; every request, where they are rarer."""
    samples_per_second: Annotated[float, Meta(gt=0, le=100_000)] = RATE
    """Of all endpoints together, at most."""
    prefill_tokens_per_second: Annotated[float, Meta(gt=0, le=1e9)] = PREFILL_RATE
    """Of an engine, until that is known better."""
    always: Always = Always()


class Objectives(_Block, frozen=True):
    """InferenceObjective documents: docs/priorities.md."""

    SHORT: ClassVar[str] = "path"
    path: str = ""
    """A file or a folder of them, watched; --objectives-path wins. Empty for none."""
    default_priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0
    """Of requests that name no objective, or none that is known."""


class OwnBlock(_Block, frozen=True):
    limits: Limits = Limits()
    outliers: Outliers = Outliers()
    scrape: Scraping = Scraping()
    observe: Observe = Observe()
    objectives: Objectives = Objectives()
    trust: Trust | None = None
    """None: control headers are taken from everybody, as the reference picker does."""
    decision_log_size: Annotated[int, Meta(ge=0, le=1_000_000)] = DECISIONS_MAX
    """Decisions kept for /debug/decisions; 0 keeps none."""
    reasons_header: bool = False
    """Send the decision's reasons back in an answer header."""
