"""Pickers: the best total, any, or any with chances in proportion to totals. Ties are broken at random."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from epp.domain.snapshot import Floats, Ints
from epp.scheduling.contract import BuildContext, Cycle, PluginType


class PickerParameters(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    max_num_of_endpoints: Annotated[
        int, Meta(gt=0, description="endpoints to name, best first; the gateway tries the next on failure")
    ] = 1


class MaxScore:
    """The highest totals in order; equal totals in random order."""

    def __init__(self, count: int = 1) -> None:
        self._count = count

    def pick(self, cycle: Cycle, rows: Ints, totals: Floats) -> Sequence[int]:
        if self._count == 1 or len(rows) == 1:
            # The best from the front and the best from the back are one, unless there is a tie.
            at = totals.argmax(0)
            if at != len(totals) - 1 - totals[::-1].argmax(0):
                best = (totals == totals[at]).nonzero()[0]
                at = best[cycle.rng.randrange(len(best))]
            return (rows.item(at),)
        count = min(self._count, len(rows))
        # Only what can be among the first `count` is shuffled and sorted: the pool may be large.
        least = np.partition(totals, len(rows) - count)[len(rows) - count]
        front = (totals >= least).nonzero()[0].tolist()
        cycle.rng.shuffle(front)
        front.sort(key=totals.__getitem__, reverse=True)
        return [int(rows[at]) for at in front[:count]]


class RandomChoice:
    """Any, each as likely."""

    def __init__(self, count: int = 1) -> None:
        self._count = count

    def pick(self, cycle: Cycle, rows: Ints, totals: Floats) -> Sequence[int]:
        if self._count == 1:
            return (int(rows[cycle.rng.randrange(len(rows))]),)
        count = min(self._count, len(rows))
        return [int(rows[at]) for at in cycle.rng.sample(range(len(rows)), count)]


class WeightedRandom:
    """Drawn one after another without replacement, with chances in proportion to totals.

    That is the distribution of A-Res sampling (Efraimidis and Spirakis 2006: highest U^(1/w) first), by
    direct draws. A total of 0 has no chance; when all are 0, each is as likely.
    """

    def __init__(self, count: int = 1) -> None:
        self._count = count
        self._any = RandomChoice(count)

    def pick(self, cycle: Cycle, rows: Ints, totals: Floats) -> Sequence[int]:
        positive = (totals > 0.0).nonzero()[0]
        if not len(positive):
            return self._any.pick(cycle, rows, totals)
        if self._count == 1:
            sums = totals[positive].cumsum(0)
            at = int(sums.searchsorted(cycle.rng.random() * sums[-1], side="right"))
            return (int(rows[positive[min(at, len(positive) - 1)]]),)
        left = positive.tolist()
        picked: list[int] = []
        while left and len(picked) < self._count:
            steps = list(accumulate(totals[left].tolist()))
            at = min(bisect_right(steps, cycle.rng.random() * steps[-1]), len(left) - 1)
            picked.append(int(rows[left.pop(at)]))
        return picked


def _builder(picker: Callable[[int], object]) -> Callable[[PickerParameters, BuildContext], object]:
    return lambda parameters, context: picker(parameters.max_num_of_endpoints)


PLUGINS = (
    PluginType(
        "max-score-picker", PickerParameters, _builder(MaxScore), "highest total score, ties at random"
    ),
    PluginType("random-picker", PickerParameters, _builder(RandomChoice), "any endpoint, each as likely"),
    PluginType(
        "weighted-random-picker",
        PickerParameters,
        _builder(WeightedRandom),
        "at random with chances in proportion to total scores",
    ),
)
