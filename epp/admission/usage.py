"""Usage-limit policies: up to which saturation of the pool each priority band may send.

A band sends while the saturation is below its ceiling; where one may not, no lower one is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec
from msgspec import Meta

from epp.scheduling.contract import BuildContext, NoParameters, PluginType


@runtime_checkable
class UsageLimitPolicy(Protocol):
    def ceilings(self, saturation: float, priorities: Sequence[int]) -> Sequence[float]:
        """One for each of the bands' priorities, which come highest first. Asked once for each request that
        may be sent, so that a policy can let every so many pass."""


class StaticLimitParameters(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    threshold: Annotated[float, Meta(ge=0, description="saturation from which nothing is sent")] = 1.0


class StaticLimit:
    """The same ceiling for all."""

    def __init__(self, parameters: StaticLimitParameters, context: BuildContext | None = None) -> None:
        self._threshold = parameters.threshold

    def ceilings(self, saturation: float, priorities: Sequence[int]) -> Sequence[float]:
        return [self._threshold] * len(priorities)


class HoldbackParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    min_ceiling: Annotated[float, Meta(ge=0, lt=1, description="ceiling of the lowest priority")]
    max_ceiling: Annotated[float, Meta(gt=0, le=1, description="ceiling of the highest priority")] = 1.0
    shape: Annotated[Literal["linear"], Meta(description="how ceilings lie between the two")] = "linear"
    domain: Annotated[
        Literal["rank", "value"], Meta(description="equal steps from band to band, or by the priorities")
    ] = "rank"


class PriorityHoldback:
    """The lower the priority, the earlier it is held back. A single band has the highest ceiling."""

    def __init__(self, parameters: HoldbackParameters, context: BuildContext | None = None) -> None:
        if parameters.min_ceiling >= parameters.max_ceiling:
            raise ValueError("minCeiling must be below maxCeiling")
        self._highest = parameters.max_ceiling
        self._lowest = parameters.min_ceiling
        self._by_value = parameters.domain == "value"

    def ceilings(self, saturation: float, priorities: Sequence[int]) -> Sequence[float]:
        if len(priorities) < 2:
            return [self._highest] * len(priorities)
        width = self._highest - self._lowest
        if self._by_value:
            least, span = priorities[-1], priorities[0] - priorities[-1]
            return [self._lowest + (priority - least) / span * width for priority in priorities]
        last = len(priorities) - 1
        return [self._highest - i * width / last for i in range(len(priorities))]


class SoftReflectiveCeiling:
    """Band i of n is open below 1 - i x saturation / (n - 1). Past that, and below saturation 1, it is opened
    once in every round(saturation / (1 - saturation)) calls; the highest band always is. All bands count the
    same calls."""

    def __init__(self, parameters: NoParameters, context: BuildContext | None = None) -> None:
        self._calls = 0

    def ceilings(self, saturation: float, priorities: Sequence[int]) -> Sequence[float]:
        self._calls += 1
        last = len(priorities) - 1
        ceilings = [1.0] * len(priorities)
        for i in range(1, len(priorities)):
            if saturation >= 1.0 - i * saturation / last and not self._turn(saturation):
                ceilings[i] = 0.0
        return ceilings

    def _turn(self, saturation: float) -> bool:
        if saturation >= 1.0:
            return False
        if saturation < 0.5:
            return True
        return self._calls % max(1, round(saturation / (1.0 - saturation))) == 0


STATIC_LIMIT = "static-usage-limit-policy"

PLUGINS: tuple[PluginType[Any], ...] = (
    PluginType(STATIC_LIMIT, StaticLimitParameters, StaticLimit, "one ceiling of saturation for all"),
    PluginType(
        "priority-holdback-policy",
        HoldbackParameters,
        PriorityHoldback,
        "the lower the priority, the lower the saturation from which it is held back",
        alpha=True,
    ),
    PluginType(
        "soft-reflective-ceiling-policy",
        NoParameters,
        SoftReflectiveCeiling,
        "lower priorities are let through ever more rarely as saturation rises",
        alpha=True,
    ),
)
