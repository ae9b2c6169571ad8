"""The default policy: send a request where the least work stands before it, counted in prompt tokens."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import NEVER, Floats, Ints, Snapshot
from epp.plugins.signals import prefix_match
from epp.scheduling.columns import greatest, least
from epp.scheduling.contract import BuildContext, Cycle, PluginType

_ONE = np.asarray(1.0)
"""numpy takes an array without dimensions in 0.2 us less than a Python number."""


class ExpectedWorkParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """Weights of the cost; the defaults are those measured best in trace replays at three loads."""

    backlog_weight: Annotated[
        float, Meta(ge=0, description="cost of one uncached prompt token already sent and not yet answered")
    ] = 1.0
    uncached_weight: Annotated[
        float, Meta(ge=0, description="cost of one token of this prompt that the endpoint has not cached")
    ] = 3.0
    running_tokens: Annotated[
        float, Meta(ge=0, description="cost of one unfinished request, in prompt tokens")
    ] = 128.0
    foreign_smoothing_seconds: Annotated[
        float, Meta(ge=0, description="seconds over which requests of other clients are averaged; 0 for none")
    ] = 1.0
    prefix_match_info_producer_name: Annotated[
        str, Meta(description="producer of prefix matches; empty for the approximate one")
    ] = ""


class ForeignRequests:
    """Requests at an endpoint that are not ours: scraped running + waiting minus ours, never below 0.

    A scrape is compared with our own count once, at the first decision that sees it, and the difference
    holds until the next scrape of that endpoint. So what we send after the scrape hides no foreign request,
    and what ends after it appears as none. Between the scrape and that first decision (a snapshot period at
    load) both errors remain, each of at most the requests that came or went in it.

    Averaged over about a second: pickers that all act on the same fresh count herd to the same endpoint until
    the next scrape. In a model of 4 pickers, 8 endpoints, scrapes every 200 ms and 15 requests an endpoint,
    the fullest has 4.5 above the mean with raw counts, 1.6 with none and 1.5 averaged; with a fifth of the
    load on two endpoints from elsewhere 4.5, 10.6 and 2.4.
    """

    def __init__(self, smoothing_s: float) -> None:
        self._smoothing_s = smoothing_s
        self._version = -1
        self._endpoints: tuple[Endpoint, ...] | None = None
        self._scraped_at = np.full(0, NEVER)
        self._count = np.zeros(0)
        self._any = False

    def at(self, cycle: Cycle) -> Floats | None:
        """One count per row of the snapshot, 0 where metrics are stale; None when there are none at all."""
        snapshot = cycle.snapshot
        if snapshot.endpoints is not self._endpoints:
            self._reach(snapshot)
        if snapshot.version != self._version:
            self._take(cycle, snapshot)
        if not self._any:
            return None
        return self._count[snapshot.slots] * snapshot.fresh(cycle.now)

    def _reach(self, snapshot: Snapshot) -> None:
        """The pool changed: have a cell for every slot."""
        grow = (int(np.max(snapshot.slots)) + 1 if len(snapshot) else 0) - len(self._count)
        if grow > 0:
            self._count = np.concatenate((self._count, np.zeros(grow)))
            self._scraped_at = np.concatenate((self._scraped_at, np.full(grow, NEVER)))
        self._endpoints = snapshot.endpoints
        self._version = -1

    def _take(self, cycle: Cycle, snapshot: Snapshot) -> None:
        """Compare what was scraped since the last decision."""
        self._version = snapshot.version
        slots = snapshot.slots
        new = (snapshot.scraped_at > self._scraped_at[slots]).nonzero()[0]
        if len(new):
            changed = slots[new]
            there = snapshot.running[new] + snapshot.waiting[new] - cycle.inflight.requests(changed)
            step = np.maximum(there, 0.0) - self._count[changed]
            if self._smoothing_s:
                # The first scrape is infinitely long after the one before, so it counts in full.
                elapsed = snapshot.scraped_at[new] - self._scraped_at[changed]
                step *= 1.0 - np.exp(-elapsed / self._smoothing_s)
            self._count[changed] += step
            self._scraped_at[changed] = snapshot.scraped_at[new]
            self._any = bool(self._count.any())

    def forget(self, slot: int) -> None:
        if slot < len(self._count):
            self._count[slot] = 0.0
            self._scraped_at[slot] = NEVER


class ExpectedWork:
    """cost = backlog + 3 x uncached + 128 x running, in tokens; score = (1 + least cost) / (1 + cost).

    Of the 3, 1 is this request's own wait and 2 are for the others that it holds up. Where fewer run than on
    average, the tokens that this endpoint lacks and another has cost less: 1 + 2 x running / average, so 1
    where nothing runs. Without that a prefix that all prompts share keeps them on the endpoints that have it
    while the others idle and stay cold.

    Alone it is the exact argmin, and in (0, 1] it can be weighed with others. A foreign request costs what
    one of ours costs on average, so that two pickers on one pool do not herd.
    """

    def __init__(self, parameters: ExpectedWorkParameters) -> None:
        self._p = parameters
        self._foreign = ForeignRequests(parameters.foreign_smoothing_seconds)
        self._running_tokens = np.asarray(parameters.running_tokens)
        self._uncached_weight = np.asarray(parameters.uncached_weight)

    def cost(self, cycle: Cycle, rows: Ints, more: float = 0.0) -> Floats:
        """Tokens of work before this request would be through its prefill, and `more`, one value per row."""
        p, snapshot = self._p, cycle.snapshot
        slots = snapshot.slots if rows is snapshot.every else snapshot.slots[rows]
        ours = cycle.inflight.requests(slots)
        backlog = cycle.inflight.prefill_tokens(slots)
        cost: Floats = ours * self._running_tokens
        cost += backlog if p.backlog_weight == 1.0 else backlog * p.backlog_weight
        running = ours
        foreign = self._foreign.at(cycle)
        if foreign is not None:
            others = foreign[rows]
            count = ours.sum()
            average = cost.sum() / count if count > 0 else p.running_tokens
            cost += others * average
            running = ours + others
        tokens, weight = cycle.request.input_tokens, p.uncached_weight
        fewest = float(tokens)
        match = prefix_match(cycle, p.prefix_match_info_producer_name)
        if match is not None:
            cached = match.tokens(tokens)
            if rows is not snapshot.every:
                cached = cached[rows]
            most = greatest(cached)
            if least(cached) < most:
                lacking = most - cached
                lacking *= self._price(running) if weight > 1.0 else self._uncached_weight
                cost += lacking
            fewest -= most
        cost += fewest * weight + more
        return cost

    def _price(self, running: Floats) -> Floats:
        """Of a token that an endpoint lacks and another has: 1 where nothing runs, the full weight from the
        average on."""
        average = float(running.sum()) / len(running)
        price: Floats = running * ((self._p.uncached_weight - 1.0) / max(1.0, average))
        price += _ONE
        np.minimum(price, self._uncached_weight, out=price)
        return price

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        if not len(rows):
            return np.zeros(0)
        cost = self.cost(cycle, rows, more=1.0)
        scores: Floats = least(cost) / cost
        return scores

    def forget(self, slot: int) -> None:
        self._foreign.forget(slot)


def _build(parameters: ExpectedWorkParameters, context: BuildContext) -> ExpectedWork:
    return ExpectedWork(parameters)


PLUGINS = (
    PluginType(
        "expected-work-scorer",
        ExpectedWorkParameters,
        _build,
        "least expected work in tokens: prefill backlog, uncached prompt, running requests",
        needs=("approx-prefix-cache-producer",),
    ),
)
