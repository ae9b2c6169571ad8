"""From a request and a snapshot to a decision: producers, then the profiles that the handler names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from random import Random
from typing import Any

import numpy as np

from epp.domain.decision import Decision, Drop, ProfileRun
from epp.domain.errors import Reason, Refused
from epp.domain.request import Request
from epp.domain.snapshot import Ints, Snapshot
from epp.domain.views import Clock, InflightView
from epp.scheduling.contract import (
    AnswerObserver,
    ChoiceObserver,
    Cycle,
    OutputEstimator,
    PluginSink,
    Producer,
    ProfileHandler,
    RequestMutator,
    StateDumper,
)
from epp.scheduling.profile import Named, Probe, Profile, describe

UNAVAILABLE = "unavailable"
"""Name in Drop.filter of endpoints that are avoided because real requests to them failed."""
PREFIX_TOKENS = "prefix-match-tokens"
"""Column of cached prompt tokens that a prefix producer puts into the cycle."""


class Scheduler:
    """Owns the built plugins of one pool. Called by the one event loop; nothing here waits."""

    def __init__(
        self,
        profiles: Sequence[Profile],
        handler: Named[ProfileHandler],
        plugins: Sequence[Named[object]],
        inflight: InflightView,
        *,
        clock: Clock | None = None,
        sink: PluginSink | None = None,
        timed_every: int = 1,
    ) -> None:
        """`plugins` are all instances, in the order in which producers run; profiles use some of them.

        `clock` and `sink` time the plugins in one of `timed_every` decisions; without both nothing is timed.
        Raises ValueError when there is no profile.
        """
        if not profiles:
            raise ValueError("a scheduler needs at least one profile")
        self.profiles = {profile.name: profile for profile in profiles}
        self.handler = handler
        self.plugins = tuple(plugins)
        self.types = {step.name: step.type_name for step in plugins}
        """Type of each plugin by its name."""
        self._inflight = inflight
        self._names = tuple(self.profiles)
        self._timed = Probe(clock if sink is not None else None, sink)
        self._untimed = Probe(None, sink)
        self._probe = self._timed
        """Of the decision in hand."""
        self._timed_every = timed_every
        self._decisions = 0
        self._producers: list[Named[Producer]] = []
        self._choosers: list[Named[ChoiceObserver]] = []
        self._mutators: list[Named[RequestMutator]] = []
        self._answerers: list[Named[AnswerObserver]] = []
        self._estimators: list[Named[OutputEstimator]] = []
        self._asks = False
        for step in self.plugins:
            name, type_name, plugin = step.name, step.type_name, step.plugin
            if isinstance(plugin, Producer):
                self._producers.append(Named(name, type_name, plugin))
            if isinstance(plugin, ChoiceObserver):
                self._choosers.append(Named(name, type_name, plugin))
            if isinstance(plugin, RequestMutator):
                self._mutators.append(Named(name, type_name, plugin))
            if isinstance(plugin, AnswerObserver):
                self._answerers.append(Named(name, type_name, plugin))
                self._asks = self._asks or not getattr(plugin, "only_elsewhere", False)
            if isinstance(plugin, OutputEstimator):
                self._estimators.append(Named(name, type_name, plugin))

    @property
    def asks_answers(self) -> bool:
        """A plugin sets headers on answers, whoever served them."""
        return self._asks

    def schedule(
        self, request: Request, snapshot: Snapshot, candidates: Ints, *, now: float, seed: int
    ) -> tuple[Cycle, Decision]:
        """Decide. `candidates` are rows of the snapshot; `now` is monotonic seconds.

        Raises Refused: NO_ENDPOINTS when there are no candidates, NO_ENDPOINT_LEFT when the filters of
        the primary profile leave none, or what a handler refuses with.
        """
        if not len(candidates):
            raise Refused(Reason.NO_ENDPOINTS, "no endpoints available for the request")
        cycle = SeededCycle(seed, request, snapshot, now, self._inflight, self._names)
        probe = self._probe = self._timed if self._decisions % self._timed_every == 0 else self._untimed
        self._decisions += 1
        timing = probe.timing
        at = probe.start() if timing else 0.0
        for step in self._producers:
            try:
                step.plugin.produce(cycle)
            except Exception as error:  # a broken producer costs only its columns
                probe.fault("DataProducer", step, describe(error))
            if timing:
                at = probe.lap(at, "DataProducer", step)
        rows, drops = _without_avoided(snapshot, candidates) if snapshot.avoids else (candidates, ())
        runs = self._run_profiles(cycle, candidates, rows, drops)
        primary, picked = self._primary(cycle, runs)
        endpoints = snapshot.endpoints
        decision = Decision(
            request_id=request.head.request_id, at=now, model=request.model,
            target_model=request.target_model, snapshot=snapshot,
            endpoints=tuple([endpoints[row] for row in picked]), primary=primary, runs=tuple(runs.values()),
            input_tokens=request.input_tokens, cached_tokens=_cached_tokens(cycle, picked[0]),
            seed=seed, rewrite=request.rewrite, attributes=cycle.columns,
        )  # fmt: skip
        return cycle, decision

    def _run_profiles(
        self, cycle: Cycle, candidates: Ints, rows: Ints, drops: tuple[Drop, ...]
    ) -> dict[str, ProfileRun]:
        runs: dict[str, ProfileRun] = {}
        probe = self._probe
        timing = probe.timing
        while True:
            at = probe.start() if timing else 0.0
            try:
                wanted = self.handler.plugin.next_profiles(cycle, runs)
            except Refused:
                raise
            except Exception as error:  # a broken handler must not stop the pool: run what is first
                probe.fault("ProfilePicker", self.handler, describe(error))
                wanted = () if runs else self._names[:1]
            if timing:
                probe.lap(at, "ProfilePicker", self.handler)
            new = [name for name in wanted if name not in runs]
            if not new:
                return runs
            for name in new:
                profile = self.profiles.get(name)
                if profile is None:
                    raise Refused(Reason.NO_ENDPOINT_LEFT, f"there is no scheduling profile {name!r}")
                runs[name] = profile.run(cycle, candidates, rows, probe, drops)
            if len(runs) == len(self.profiles):
                return runs

    def _primary(self, cycle: Cycle, runs: Mapping[str, ProfileRun]) -> tuple[str, tuple[int, ...]]:
        probe = self._probe
        timing = probe.timing
        at = probe.start() if timing else 0.0
        try:
            name = self.handler.plugin.primary(cycle, runs)
        except Refused:
            raise
        except Exception as error:  # as in _run_profiles
            probe.fault("ProcessProfilesResults", self.handler, describe(error))
            name = next(iter(runs), "")
        if timing:
            probe.lap(at, "ProcessProfilesResults", self.handler)
        run = runs.get(name)
        if run is None:
            raise Refused(Reason.NO_ENDPOINT_LEFT, f"scheduling profile {name!r} did not run")
        if not run.picked:
            last = run.drops[-1].filter if run.drops else "no filter"
            raise Refused(
                Reason.NO_ENDPOINT_LEFT,
                f"filter {last!r} of profile {run.profile!r} left none of {len(run.candidates)} endpoints",
            )
        return name, run.picked

    def chosen(self, cycle: Cycle, decision: Decision) -> None:
        """Tell the plugins that learn from choices. Call once, before the request leaves."""
        probe = self._probe
        timing = probe.timing
        at = probe.start() if timing else 0.0
        for step in self._choosers:
            try:
                step.plugin.chosen(cycle, decision)
            except Exception as error:  # costs only what it would have learned
                probe.fault("PreRequest", step, describe(error))
            if timing:
                at = probe.lap(at, "PreRequest", step)

    def request_headers(self, cycle: Cycle, decision: Decision) -> Sequence[tuple[str, str]]:
        """Request headers that plugins set; of one name the last plugin counts."""
        if not self._mutators:
            return ()
        headers: dict[str, str] = {}
        for step in self._mutators:
            try:
                headers.update(step.plugin.request_headers(cycle, decision))
            except Exception as error:  # costs only its own headers
                self._probe.fault("PreRequest", step, describe(error))
        return tuple(headers.items())

    def answer_headers(
        self, request: Request, decision: Decision, served: str | None
    ) -> Sequence[tuple[str, str]]:
        """Answer headers that plugins set; of one name the last plugin counts."""
        if not self._answerers:
            return ()
        headers: dict[str, str] = {}
        probe = self._probe
        timing = probe.timing
        at = probe.start() if timing else 0.0
        for step in self._answerers:
            try:
                answer = step.plugin.answer_headers(request, decision, served)
                if answer:
                    headers.update(answer)
            except Exception as error:  # costs only its own headers
                probe.fault("ResponseReceived", step, describe(error))
            if timing:
                at = probe.lap(at, "ResponseReceived", step)
        return tuple(headers.items()) if headers else ()

    def expected_output(self, request: Request) -> int | None:
        """Output tokens that the ledger should expect, when a plugin estimates them; None otherwise."""
        for step in self._estimators:
            try:
                return step.plugin.expected_output(request)
            except Exception as error:  # costs only the estimate
                self._probe.fault("PreRequest", step, describe(error))
        return None

    def forget(self, slot: int) -> None:
        """Drop what plugins keep about a slot, before it is given to another endpoint."""
        for step in self.plugins:
            forget = getattr(step.plugin, "forget", None)
            if not callable(forget):
                continue
            try:
                forget(slot)
            except Exception as error:  # the others must still hear of it
                self._probe.fault("EndpointRemoved", step, describe(error))

    def dump_state(self) -> dict[str, Mapping[str, Any]]:
        """JSON-ready state of every plugin that has one, by instance name."""
        states: dict[str, Mapping[str, Any]] = {}
        for step in self.plugins:
            if isinstance(step.plugin, StateDumper):
                try:
                    states[step.name] = step.plugin.dump_state()
                except Exception as error:  # shown in its place
                    states[step.name] = {"error": describe(error)}
        return states


class SeededCycle(Cycle):
    """Makes its generator when a plugin first asks for it: seeding one takes 6 us, and most never do."""

    __slots__ = ("_seed",)

    def __init__(
        self,
        seed: int,
        request: Request,
        snapshot: Snapshot,
        now: float,
        inflight: InflightView,
        profiles: Sequence[str],
    ) -> None:
        self._seed = seed
        self.request = request
        self.snapshot = snapshot
        self.now = now
        self.inflight = inflight
        self.profiles = profiles
        self.prefix = {}
        self.columns = {}
        self.state = {}

    def __getattr__(self, name: str) -> Any:
        if name != "rng":
            raise AttributeError(name)
        self.rng = Random(self._seed)
        return self.rng


def _cached_tokens(cycle: Cycle, row: int) -> int:
    """Of the column that a producer may have filled; one with nonsense counts as none."""
    column = cycle.columns.get(PREFIX_TOKENS)
    if column is None:
        return 0
    try:
        cached = float(column[row])
    except (IndexError, TypeError, ValueError):
        return 0
    return min(int(cached), cycle.request.input_tokens) if 0.0 < cached < inf else 0


def _without_avoided(snapshot: Snapshot, candidates: Ints) -> tuple[Ints, tuple[Drop, ...]]:
    """Leave out avoided endpoints, unless all candidates are: a doubtful endpoint is better than none."""
    available = snapshot.available[candidates]
    if np.count_nonzero(available) in (len(candidates), 0):
        return candidates, ()
    return candidates[available], (Drop(UNAVAILABLE, candidates[~available]),)
