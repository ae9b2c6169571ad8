"""The contract of a plugin: small Protocols, one method each, that work on whole columns of a snapshot.

A plugin is an object that fulfils one or more of these Protocols. It never does I/O, never awaits and keeps
no metrics; the profile run times it. `rows` are indices into the snapshot's columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import msgspec
import numpy as np

from epp.domain.decision import Decision, ProfileRun
from epp.domain.request import Request
from epp.domain.snapshot import Bools, Floats, Ints, Snapshot
from epp.domain.views import InflightView


class PrefixMatch(msgspec.Struct, eq=False):
    """How much of the request's prompt each endpoint has cached, as a producer believes; never changed."""

    matched_blocks: Floats
    """Aligned with the snapshot's rows; counted contiguously from the front, summed over prompts."""
    total_blocks: int
    block_tokens: int
    _tokens: Floats | None = None

    def tokens(self, prompt_tokens: int) -> Floats:
        """The same in tokens, at most those of the whole prompt; computed once for all who ask."""
        tokens = self._tokens
        if tokens is None:
            tokens = self._tokens = np.minimum(self.matched_blocks * self.block_tokens, prompt_tokens)
        return tokens


@dataclass(slots=True, eq=False)
class Cycle:
    """What a plugin may look at while one request is scheduled."""

    request: Request
    snapshot: Snapshot
    now: float
    """Monotonic seconds."""
    rng: Random
    inflight: InflightView
    prefix: dict[str, PrefixMatch] = field(default_factory=dict)
    """By the name of the producer that computed it."""
    columns: dict[str, Floats] = field(default_factory=dict)
    """Further columns of producers, aligned with the snapshot's rows."""
    profiles: Sequence[str] = ()
    """Names of the configured profiles, in their order."""
    state: dict[str, object] = field(default_factory=dict)
    """What plugins keep for their later calls or publish for others, by instance or attribute name."""


@runtime_checkable
class Filter(Protocol):
    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        """One boolean per row: True stays."""


@runtime_checkable
class Scorer(Protocol):
    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        """One value in [0, 1] per row; higher is better."""


@runtime_checkable
class Picker(Protocol):
    def pick(self, cycle: Cycle, rows: Ints, totals: Floats) -> Sequence[int]:
        """Chosen rows in rank order; never empty when rows is not."""


@runtime_checkable
class ProfileHandler(Protocol):
    def next_profiles(self, cycle: Cycle, runs: Mapping[str, ProfileRun]) -> Sequence[str]:
        """Profiles to run now, given those that have run; empty ends the cycle."""

    def primary(self, cycle: Cycle, runs: Mapping[str, ProfileRun]) -> str:
        """Name of the profile whose pick is the request's endpoint."""


@runtime_checkable
class Producer(Protocol):
    def produce(self, cycle: Cycle) -> None:
        """Put columns into the cycle before any profile runs."""


@runtime_checkable
class ChoiceObserver(Protocol):
    def chosen(self, cycle: Cycle, decision: Decision) -> None:
        """Called once, when the decision is final and before the request leaves."""


@runtime_checkable
class RequestMutator(Protocol):
    def request_headers(self, cycle: Cycle, decision: Decision) -> Sequence[tuple[str, str]]:
        """Request headers to set on the way to the model server."""


@runtime_checkable
class AnswerObserver(Protocol):
    def answer_headers(
        self, request: Request, decision: Decision, served: str | None
    ) -> Sequence[tuple[str, str]]:
        """Answer headers to set. `served` is the `ip:port` that the gateway says it used, if it says.

        A plugin with a true attribute `only_elsewhere` is content to be asked late, and its headers count
        only where another endpoint served than the one chosen; the door need not hold the answer for it.
        """


@runtime_checkable
class StateDumper(Protocol):
    def dump_state(self) -> Mapping[str, Any]:
        """JSON-ready state for /debug/plugins/state."""


@runtime_checkable
class OutputEstimator(Protocol):
    def expected_output(self, request: Request) -> int:
        """Output tokens that this request will probably need; what the ledger should expect for it."""


class PluginSink(Protocol):
    """Where the run reports what plugins cost and how they fail. Called on the request path: be quick."""

    def timed(self, extension_point: str, type_name: str, name: str, seconds: float) -> None:
        """One call of one plugin."""

    def fault(self, extension_point: str, type_name: str, name: str, what: str) -> None:
        """A plugin raised or gave a wrong answer, and the request went on without it."""


P = TypeVar("P", bound=msgspec.Struct)


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For plugins without parameters."""


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What a plugin's constructor may use besides its parameters."""

    name: str
    """The instance's name in the configuration."""
    plugin: Callable[[str], object]
    """An already built plugin by its name; raises KeyError."""


@dataclass(frozen=True, slots=True)
class PluginType(Generic[P]):
    """One row of the catalog. Third-party packages publish theirs as entry points of group `epp.plugins`."""

    type_name: str
    """`type` as written in configurations."""
    parameters: type[P]
    """A msgspec Struct: kw_only, frozen, rename="camel", forbid_unknown_fields; fields are
    `Annotated[T, Meta(description=...)]` so that `epp plugins` can print units and meaning."""
    build: Callable[[P, BuildContext], object]
    """Raises ValueError for values that do not go together; its text is shown beside file and line."""
    summary: str
    alpha: bool = False
    """Needs --allow-experimental-plugins."""
    deprecated_for: str = ""
    needs: tuple[str, ...] = ()
    """Types of producers that must exist; created with defaults when the configuration has none."""
