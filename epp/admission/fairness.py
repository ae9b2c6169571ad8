"""Fairness policies: which flow of a band goes next.

A policy as configured is shared by bands; each band asks it for a state of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol, runtime_checkable

from epp.admission.flow import Flow
from epp.admission.ranking import Ranking
from epp.scheduling.contract import BuildContext, NoParameters, PluginType


class Fairness(Protocol):
    """One band's flows that have requests waiting. Told of every change, asked for the next flow."""

    def arrive(self, flow: Flow) -> None:
        """The flow has its first waiting request."""

    def advance(self, flow: Flow) -> None:
        """Another request came to the head of the flow's queue."""

    def leave(self, flow: Flow) -> None:
        """Nothing of the flow waits any more."""

    def pick(self) -> Flow:
        """The flow whose head goes next. Asked only while some flow waits."""

    def serve(self, flow: Flow, input_tokens: int, output_tokens: int) -> None:
        """So many more tokens are charged to the flow, when they are dispatched or come back. Negative ones
        take back what was charged in advance. At a dispatch this comes before `advance` or `leave`."""

    def complete(self, flow: Flow, input_tokens: int, output_tokens: int, now: float) -> None:
        """A request of the flow is over and took so many tokens in all."""


@runtime_checkable
class FairnessPolicy(Protocol):
    def for_band(self) -> Fairness:
        """The state of one more band."""


class _FirstOfAll:
    """The best head of all flows, so no fairness: a flow that sends most is served most."""

    def __init__(self) -> None:
        self._heads: Ranking[tuple[float, float]] = Ranking()

    def arrive(self, flow: Flow) -> None:
        self.advance(flow)

    def advance(self, flow: Flow) -> None:
        head = flow.queue.first()
        assert head is not None
        self._heads.set(flow, head)

    def leave(self, flow: Flow) -> None:
        self._heads.discard(flow)

    def pick(self) -> Flow:
        first = self._heads.first()
        assert first is not None
        return first[1]

    def serve(self, flow: Flow, input_tokens: int, output_tokens: int) -> None:
        pass

    def complete(self, flow: Flow, input_tokens: int, output_tokens: int, now: float) -> None:
        pass


class _Ring:
    """One request a turn. A flow that comes joins at the end, so while one waits no other goes twice."""

    def __init__(self) -> None:
        self._flows: OrderedDict[Flow, None] = OrderedDict()

    def arrive(self, flow: Flow) -> None:
        self._flows[flow] = None

    def advance(self, flow: Flow) -> None:
        pass

    def leave(self, flow: Flow) -> None:
        del self._flows[flow]

    def pick(self) -> Flow:
        flow = next(iter(self._flows))
        self._flows.move_to_end(flow)
        return flow

    def serve(self, flow: Flow, input_tokens: int, output_tokens: int) -> None:
        pass

    def complete(self, flow: Flow, input_tokens: int, output_tokens: int, now: float) -> None:
        pass


class GlobalStrict:
    """Ignores flows: the order alone decides."""

    def __init__(self, parameters: NoParameters, context: BuildContext | None = None) -> None:
        pass

    def for_band(self) -> Fairness:
        return _FirstOfAll()


class RoundRobin:
    """Flows take turns, whatever their requests cost."""

    def __init__(self, parameters: NoParameters, context: BuildContext | None = None) -> None:
        pass

    def for_band(self) -> Fairness:
        return _Ring()


GLOBAL_STRICT = "global-strict-fairness-policy"

PLUGINS: tuple[PluginType[Any], ...] = (
    PluginType(GLOBAL_STRICT, NoParameters, GlobalStrict, "the first of all that wait, whoever sent it"),
    PluginType("round-robin-fairness-policy", NoParameters, RoundRobin, "flows take turns, a request each"),
)
