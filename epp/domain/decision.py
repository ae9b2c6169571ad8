"""A decision and its reasons, as one value. Logs, spans, debug pages and answer headers are views of it.

Thousands are kept, and no cycle can lead through one: the garbage collector need not look at them.
"""

from __future__ import annotations

from msgspec import Struct, field

from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import Floats, Ints, Snapshot


class Drop(Struct, frozen=True, eq=False, gc=False):
    """What one filter removed: rows of the snapshot."""

    filter: str
    rows: Ints


class Score(Struct, frozen=True, eq=False, gc=False):
    """Raw answers of one scorer, aligned with ProfileRun.rows, already clamped to [0, 1]."""

    scorer: str
    weight: float
    values: Floats


class ProfileRun(Struct, frozen=True, eq=False, gc=False):
    """One profile of one decision."""

    profile: str
    candidates: Ints
    """Rows of the snapshot that entered."""
    drops: tuple[Drop, ...]
    rows: Ints
    """Rows that were scored."""
    scores: tuple[Score, ...]
    totals: Floats
    """Weighted sums, aligned with rows."""
    picked: tuple[int, ...]
    """Rows in rank order; empty when the filters left none."""
    picker: str = ""
    faults: tuple[tuple[str, str], ...] = ()
    """(plugin, what went wrong): the plugin's answer was left out or clamped."""


class Decision(Struct, frozen=True, eq=False, gc=False):
    """Where a request goes and why. `endpoints` is in rank order; the first is the primary."""

    request_id: str
    at: float
    """Monotonic seconds."""
    model: str
    target_model: str
    snapshot: Snapshot
    endpoints: tuple[Endpoint, ...]
    primary: str
    """Name of the profile whose endpoints were chosen."""
    runs: tuple[ProfileRun, ...]
    input_tokens: int
    cached_tokens: int
    """Prompt tokens that we believe the primary endpoint has in its cache."""
    seed: int = 0
    """Seed of the random generator that the pickers used, and of a rewrite's choice."""
    rewrite: str = ""
    """Name of the rewrite whose rule decided `target_model`; empty where none did."""
    attributes: dict[str, Floats] = field(default_factory=dict)
    """What data producers computed (for example `prefix-match-tokens`), aligned with the snapshot's rows."""

    @property
    def uncached_tokens(self) -> int:
        uncached = self.input_tokens - self.cached_tokens
        return uncached if uncached > 0 else 0

    @property
    def endpoint(self) -> Endpoint:
        return self.endpoints[0]

    @property
    def row(self) -> int:
        """Row of the primary endpoint in the snapshot."""
        primary = self.primary
        for run in self.runs:
            if run.profile == primary:
                return run.picked[0]
        raise LookupError(primary)

    @property
    def destination(self) -> str:
        """Value of x-gateway-destination-endpoint."""
        endpoints = self.endpoints
        if len(endpoints) == 1:
            return endpoints[0].authority
        return ",".join([endpoint.authority for endpoint in endpoints])
