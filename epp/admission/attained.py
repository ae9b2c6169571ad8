"""Fairness by attained service that fades: the reference picker's `program-aware-fairness`.

A flow's score is 0.8 x (1 - service) + 0.2 x wait of its head, both scaled to 0..1 over the flows that wait;
the highest goes next. Service is input + 2 x output tokens of finished requests, halved every 60 s.

No score depends on the time of asking: services fade all alike and heads grow older all alike, so what is
scaled between the least and the greatest stays. But every request that ends or is sent can move those two,
and with them all scores, so each pick looks at all flows that wait: O(flows), on whole columns.
"""

from __future__ import annotations

from math import inf, log2
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from epp.admission.fairness import Fairness
from epp.admission.flow import Flow
from epp.scheduling.columns import greatest, least
from epp.scheduling.contract import BuildContext, PluginType

_OUTPUT_WEIGHT = 2.0
_SPARE = 16


class AttainedServiceParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    strategy: Annotated[Literal["las"], Meta(description="least attained service")] = "las"
    las_weight_service: Annotated[float, Meta(ge=0, description="weight of little service")] = 0.8
    las_weight_head_wait: Annotated[float, Meta(ge=0, description="weight of a long wait")] = 0.2
    las_half_life_seconds: Annotated[float, Meta(gt=0, description="seconds that halve past service")] = 60.0
    eviction_ttl_seconds: Annotated[
        float, Meta(gt=0, description="accepted; idle flows are forgotten after five minutes")
    ] = 3600.0
    eviction_sweep_seconds: Annotated[
        float, Meta(gt=0, description="accepted; idle flows are forgotten one by one, without a sweep")
    ] = 300.0


class _Attained:
    """One band. `Flow.counter` is log2 of the service as it would count at time 0: fading is then a
    difference of times, and no number grows with the time that the picker runs."""

    def __init__(self, parameters: AttainedServiceParameters) -> None:
        self._p = parameters
        self._flows: list[Flow] = []
        """Those that wait, in any order; the columns have the same."""
        self._at: dict[Flow, int] = {}
        self._services = np.zeros(_SPARE)
        """Their counters."""
        self._heads = np.zeros(_SPARE)
        """When the request at the head of each came."""

    def arrive(self, flow: Flow) -> None:
        at = self._at[flow] = len(self._flows)
        self._flows.append(flow)
        if at == len(self._heads):
            self._services = np.concatenate((self._services, np.zeros(at)))
            self._heads = np.concatenate((self._heads, np.zeros(at)))
        self._services[at] = flow.counter
        self._heads[at] = flow.head().enqueued_at

    def advance(self, flow: Flow) -> None:
        self._heads[self._at[flow]] = flow.head().enqueued_at

    def leave(self, flow: Flow) -> None:
        at, last = self._at.pop(flow), self._flows.pop()
        if last is not flow:
            end = len(self._flows)
            self._flows[at] = last
            self._at[last] = at
            self._services[at] = self._services[end]
            self._heads[at] = self._heads[end]

    def pick(self) -> Flow:
        count = len(self._flows)
        if count == 1:
            return self._flows[0]
        # 1 - score, but for what is the same for all.
        heads = self._heads[:count]
        earliest = least(heads)
        width = greatest(heads) - earliest
        late = heads - earliest
        late *= self._p.las_weight_head_wait / width if width else 0.0
        services = self._services[:count]
        highest = greatest(services)
        if highest > -inf:
            served = services - highest
            np.exp2(served, out=served)
            width = 1.0 - least(served)
            served *= self._p.las_weight_service / width if width else 0.0
            late += served
        return self._flows[int(late.argmin(0))]

    def serve(self, flow: Flow, input_tokens: int, output_tokens: int) -> None:
        pass

    def complete(self, flow: Flow, input_tokens: int, output_tokens: int, now: float) -> None:
        tokens = input_tokens + _OUTPUT_WEIGHT * output_tokens
        if tokens > 0:
            passed = now / self._p.las_half_life_seconds
            flow.counter = passed + log2(2.0 ** (flow.counter - passed) + tokens)
            at = self._at.get(flow)
            if at is not None:
                self._services[at] = flow.counter


class AttainedService:
    def __init__(self, parameters: AttainedServiceParameters, context: BuildContext | None = None) -> None:
        if not parameters.las_weight_service and not parameters.las_weight_head_wait:
            raise ValueError("lasWeightService and lasWeightHeadWait must not both be 0")
        self._p = parameters

    def for_band(self) -> Fairness:
        return _Attained(self._p)


PLUGINS: tuple[PluginType[Any], ...] = (
    PluginType(
        "program-aware-fairness",
        AttainedServiceParameters,
        AttainedService,
        "the flow with the least service of late goes next, and a little the one whose head waits longest",
    ),
)
