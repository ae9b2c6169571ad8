"""Which model serves a request, by the rules of the pool's rewrites: an index, swapped whole.

An exact match beats a generic rule; then the oldest rewrite counts, then the rule that stands first. Targets
with weights share the requests by them, and where any has one, those without get none; else all share alike.
Who shares is chance's choice, or the choice of a request header: then by weighted rendezvous hashing, so that
one value keeps its target while the weights stay, and a weight that grows moves only those who come to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import log

from msgspec import Struct
from xxhash import xxh3_64_intdigest

from epp.domain.rewrite import Rewrite, RewriteRule

_SEED_BYTES = 8
_UNIT = 2.0**-53


class Resolved(Struct, frozen=True, gc=False):
    """What a rule says of one request."""

    model: str
    rewrite: str
    """Name of the object that has the rule."""


class _Index:
    """One rule, ready to be asked."""

    __slots__ = ("_bounds", "_header", "_seeds", "_targets", "_weights", "shares")

    def __init__(self, rule: RewriteRule, rewrite: Rewrite) -> None:
        weighted = any(target.weight for target in rule.targets)
        shares: dict[str, int] = {}
        for target in rule.targets:
            weight = target.weight or 0 if weighted else 1
            if weight:
                shares[target.model] = shares.get(target.model, 0) + weight
        self.shares = shares
        """By target."""
        self._targets = tuple(Resolved(model, rewrite.name) for model in shares)
        self._weights = tuple(shares.values())
        self._bounds = tuple(accumulate(self._weights))
        self._seeds = tuple(xxh3_64_intdigest(_bytes(model)) for model in shares)
        self._header = rewrite.hash_header

    def choose(self, headers: Mapping[str, str], seed: int) -> Resolved:
        if len(self._targets) == 1:
            return self._targets[0]
        value = headers.get(self._header) if self._header else None
        if value:
            return self._targets[self._winner(_bytes(value))]
        drawn = xxh3_64_intdigest((seed & (1 << 64) - 1).to_bytes(_SEED_BYTES, "little"))
        return self._targets[bisect_right(self._bounds, drawn % self._bounds[-1])]

    def _winner(self, value: bytes) -> int:
        """Each target draws an exponential deviate of its weight as rate, from the value; the least wins."""
        best, least = 0, float("inf")
        for at, (target, weight) in enumerate(zip(self._seeds, self._weights, strict=True)):
            drawn = ((xxh3_64_intdigest(value, target) >> 11) + 0.5) * _UNIT
            wait = -log(drawn) / weight
            if wait < least:
                best, least = at, wait
        return best


class Rewrites:
    """Written by the event loop."""

    def __init__(self) -> None:
        self._exact: dict[str, _Index] = {}
        self._generic: _Index | None = None
        self._all: tuple[Rewrite, ...] = ()
        self.names: frozenset[str] = frozenset()
        """Every name that stands in a rule."""
        self._observers: list[Callable[[frozenset[str]], None]] = []

    def __len__(self) -> int:
        return len(self._all)

    @property
    def generic(self) -> bool:
        """Some rule takes every name, and requests without one."""
        return self._generic is not None

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        """In order of precedence."""
        return self._all

    @property
    def models(self) -> Iterable[str]:
        """Names that a rule matches exactly."""
        return self._exact

    def shares(self, model: str) -> Mapping[str, int] | None:
        """Among which targets requests for `model` are shared, and how; None where no rule is for it."""
        index = self._exact.get(model) or self._generic
        return None if index is None else index.shares

    def observe(self, observer: Callable[[frozenset[str]], None]) -> None:
        """`observer` is told the names now and after each change."""
        self._observers.append(observer)
        observer(self.names)

    def replace(self, rewrites: Sequence[Rewrite]) -> None:
        """Of two with one name the first counts."""
        by_name: dict[str, Rewrite] = {}
        for rewrite in rewrites:
            by_name.setdefault(rewrite.name, rewrite)
        ordered = tuple(sorted(by_name.values(), key=lambda one: (one.created_at, one.name)))
        exact: dict[str, _Index] = {}
        generic: _Index | None = None
        for rewrite in ordered:
            for rule in rewrite.rules:
                if not rule.targets:
                    continue
                index = _Index(rule, rewrite)
                for model in rule.models:
                    exact.setdefault(model, index)
                if not rule.models:
                    generic = generic or index
        self._exact, self._generic, self._all = exact, generic, ordered
        rules = [rule for rewrite in ordered for rule in rewrite.rules]
        targets = {target.model for rule in rules for target in rule.targets}
        self.names = frozenset(targets.union(*(rule.models for rule in rules)))
        for observer in self._observers:
            observer(self.names)

    def resolve(self, model: str, headers: Mapping[str, str], seed: int) -> Resolved | None:
        """`model` is the client's, empty where it named none. A pure function of what is given, and of the
        rewrites; None where no rule is for it."""
        index = self._exact.get(model) or self._generic
        return None if index is None else index.choose(headers, seed)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
