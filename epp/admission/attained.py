"""Fairness by attained service that fades: the reference picker's `program-aware-fairness`.

A flow's score is 0.8 x (1 - service) + 0.2 x wait of its head, both scaled to 0..1 over the flows that wait;
the highest goes next. Service is input + 2 x output tokens of finished requests, halved every 60 s.

No score depends on the time of asking: services fade all alike and heads grow older all alike, so what is
scaled between the least and the greatest stays. Scores are therefore computed anew only after something
changed. While a drain takes several requests only the heads of the chosen flows change: the scale is kept
and their scores alone are renewed. So the first pick after a change costs O(flows), each further one
O(log flows).
"""

from __future__ import annotations

from math import inf, log2
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from epp.admission.fairness import Fairness
from epp.admission.flow import Flow
from epp.admission.ranking import Ranking
from epp.scheduling.contract import BuildContext, PluginType

_OUTPUT_WEIGHT = 2.0


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


class _Span:
    """Scales values between the least and the greatest to 0..1, and all to 0 where they are equal."""

    __slots__ = ("_least", "_width")

    def __init__(self, values: list[float]) -> None:
        self._least = min(values)
        self._width = max(values) - self._least

    def share(self, value: float) -> float:
        return (value - self._least) / self._width if self._width else 0.0


class _Attained:
    """One band. `Flow.counter` is log2 of the service as it would count at time 0: fading is then a
    difference of times, and no number grows with the time that the picker runs."""

    def __init__(self, parameters: AttainedServiceParameters) -> None:
        self._p = parameters
        self._heads: dict[Flow, float] = {}
        """Of each flow that waits: when the request at its head came."""
        self._scores: Ranking[tuple[float, float]] = Ranking()
        self._scaled = False
        self._highest = 0.0
        self._services = self._waits = _Span([0.0])

    def arrive(self, flow: Flow) -> None:
        self._heads[flow] = flow.head().enqueued_at
        self._scaled = False

    def advance(self, flow: Flow) -> None:
        self._heads[flow] = flow.head().enqueued_at
        if self._scaled:
            self._scores.set(flow, self._key(flow))

    def leave(self, flow: Flow) -> None:
        del self._heads[flow]
        self._scores.discard(flow)

    def pick(self) -> Flow:
        if not self._scaled:
            self._scale()
        first = self._scores.first()
        assert first is not None
        return first[1]

    def serve(self, flow: Flow, input_tokens: int, output_tokens: int) -> None:
        pass

    def complete(self, flow: Flow, input_tokens: int, output_tokens: int, now: float) -> None:
        tokens = input_tokens + _OUTPUT_WEIGHT * output_tokens
        if tokens > 0:
            passed = now / self._p.las_half_life_seconds
            flow.counter = passed + log2(2.0 ** (flow.counter - passed) + tokens)
            if flow in self._heads:
                self._scaled = False

    def _scale(self) -> None:
        self._highest = max(flow.counter for flow in self._heads)
        self._services = _Span([self._service(flow) for flow in self._heads])
        self._waits = _Span(list(self._heads.values()))
        self._scores.replace([(flow, self._key(flow)) for flow in self._heads])
        self._scaled = True

    def _service(self, flow: Flow) -> float:
        """As a share of the highest."""
        return 2.0 ** (flow.counter - self._highest) if self._highest > -inf else 0.0

    def _key(self, flow: Flow) -> tuple[float, float]:
        """1 - score, and the older head first where that is equal."""
        head = self._heads[flow]
        served = self._p.las_weight_service * self._services.share(self._service(flow))
        return served + self._p.las_weight_head_wait * self._waits.share(head), head


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
