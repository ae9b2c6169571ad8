"""Load that we have in flight, as a producer: tokens with or without the output that is still expected."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from epp.domain.request import Request
from epp.plugins.signals import INFLIGHT_LOAD
from epp.scheduling.contract import BuildContext, Cycle, PluginType


class InflightLoadParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    add_estimated_output_tokens: Annotated[
        bool, Meta(description="count output tokens that are still expected as load")
    ] = False
    output_ratio: Annotated[float, Meta(ge=0, description="expected output tokens for one prompt token")] = (
        1.5
    )
    max_estimated_output_tokens: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="most expected output tokens of a request; null or 0 for no limit"),
    ] = None
    prefix_match_info_producer_name: Annotated[
        str, Meta(description="accepted for compatibility: the ledger takes the decision's uncached tokens")
    ] = ""
    sync_cross_replica_state: Annotated[
        bool, Meta(description="without effect until replicas exchange state, as in the reference picker")
    ] = True


class InflightLoad:
    """The counts themselves are the ledger's, always on; scorers read them without this producer too."""

    def __init__(self, parameters: InflightLoadParameters, name: str = INFLIGHT_LOAD) -> None:
        self._p = parameters
        self._column = f"{name}/tokens"

    def produce(self, cycle: Cycle) -> None:
        slots = cycle.snapshot.slots
        tokens = cycle.inflight.prefill_tokens(slots)
        if self._p.add_estimated_output_tokens:
            tokens = tokens + cycle.inflight.decode_tokens(slots)
        cycle.columns[self._column] = tokens


class EstimatingInflightLoad(InflightLoad):
    """Also tells the ledger what output to expect."""

    def expected_output(self, request: Request) -> int:
        """round(prompt tokens x ratio), at most the configured limit and what the client allows."""
        expected = round(request.input_tokens * self._p.output_ratio)
        for limit in (self._p.max_estimated_output_tokens or None, request.max_output_tokens):
            if limit is not None:
                expected = min(expected, limit)
        return expected


def _build(parameters: InflightLoadParameters, context: BuildContext) -> InflightLoad:
    kind = EstimatingInflightLoad if parameters.add_estimated_output_tokens else InflightLoad
    return kind(parameters, context.name)


PLUGINS = (
    PluginType(INFLIGHT_LOAD, InflightLoadParameters, _build, "requests and tokens that we have in flight"),
)
