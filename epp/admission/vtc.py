"""Fairness by tokens served: the virtual token counter.

Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024 (arXiv:2401.00588). Every flow has a
counter of the tokens that it was served, input and output tokens weighed by their cost and divided by the
flow's own weight; the flow with the least counter goes next. A flow that was away is lifted to the least
counter of those that wait, so that it cannot save up, and its deficit is not held against it either.

Between two flows that both have requests waiting the counters differ by at most
    (input weight x longest prompt + output weight x M) / least flow weight
where M is the most output tokens that requests in flight at one time can still add or, if charged in advance,
take back; so their service in any interval differs by at most twice that. Where requests fail after they were
sent their prompts are taken back as well and count in M.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from epp.admission.fairness import Fairness
from epp.admission.flow import Flow
from epp.admission.ranking import Ranking
from epp.scheduling.contract import BuildContext, PluginType


class TokenCounterParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """The token weights are the paper's."""

    input_token_weight: Annotated[float, Meta(gt=0, description="cost of a prompt token")] = 1.0
    output_token_weight: Annotated[float, Meta(gt=0, description="cost of a generated token")] = 2.0
    weights: Annotated[
        dict[str, Annotated[float, Meta(gt=0)]],
        Meta(description="share of each fairness id; all others have 1"),
    ] = {}


class _Counters:
    """One band. `Flow.counter` is the flow's counter."""

    def __init__(self, input_weight: float, output_weight: float, weights: Mapping[str, float]) -> None:
        self._input = input_weight
        self._output = output_weight
        self._weights = weights
        self._least: Ranking[float] = Ranking()
        self._floor = 0.0
        """The highest least counter so far: where a flow is lifted to when it comes while none waits, or
        when one that waits was given tokens back."""

    def arrive(self, flow: Flow) -> None:
        flow.weight = self._weights.get(flow.fairness_id, 1.0)
        first = self._least.first()
        if first is not None and first[0] > self._floor:
            self._floor = first[0]
        if flow.counter < self._floor:
            flow.counter = self._floor
        self._least.set(flow, flow.counter)

    def advance(self, flow: Flow) -> None:
        pass

    def leave(self, flow: Flow) -> None:
        self._least.discard(flow)
        if not len(self._least):
            self._floor = max(self._floor, flow.counter)

    def pick(self) -> Flow:
        first = self._least.first()
        assert first is not None
        if first[0] > self._floor:
            self._floor = first[0]
        return first[1]

    def serve(self, flow: Flow, input_tokens: int, output_tokens: int) -> None:
        cost = self._input * input_tokens + self._output * output_tokens
        if cost:
            flow.counter += cost / flow.weight
            if flow in self._least:
                self._least.set(flow, flow.counter)

    def complete(self, flow: Flow, input_tokens: int, output_tokens: int, now: float) -> None:
        pass


class VirtualTokenCounter:
    """`known_ids` always have a flow of their own, however many others come."""

    def __init__(self, parameters: TokenCounterParameters, context: BuildContext | None = None) -> None:
        self._p = parameters
        self._weights = MappingProxyType(dict(parameters.weights))

    @property
    def known_ids(self) -> frozenset[str]:
        return frozenset(self._weights)

    def for_band(self) -> Fairness:
        return _Counters(self._p.input_token_weight, self._p.output_token_weight, self._weights)


PLUGINS: tuple[PluginType[Any], ...] = (
    PluginType(
        "vtc-fairness-policy",
        TokenCounterParameters,
        VirtualTokenCounter,
        "the flow that was served the fewest weighted tokens goes next (virtual token counter)",
    ),
)
