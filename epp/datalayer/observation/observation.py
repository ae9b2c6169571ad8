"""Observation: which answers to look at, and the ledger's first tokens and usage of those that are not.

Told of every request that leaves by a gateway that need not or does not show its answer; for others there is
nothing to do. Costs O(1) a request. One writer, the event loop; time and chance are given.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from epp.datalayer.inflight import Entry, Ledger
from epp.datalayer.observation.due import DueTokens, Watch
from epp.datalayer.observation.gateways import Gateway, Gateways, Mode
from epp.datalayer.observation.sampling import INTERVAL_S, RATE, Sampler
from epp.datalayer.observation.timings import PREFILL_RATE, Timings
from epp.datalayer.observation.usage import Usages
from epp.domain.request import AnswerView, Api, Request, Usage
from epp.domain.snapshot import NEVER, Floats, Ints
from epp.domain.views import Clock, Report
from epp.telemetry.series import Cell

log = logging.getLogger("epp.observation")

OBJECTIVE_HEADERS = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
DELAY_MAX_S = 600.0
"""No first token is awaited for longer: what is estimated to take so long is an error of the estimate."""

ALL, SAMPLE, ASKED, REWRITTEN, STORED, NONE = "all", "sample", "asked", "rewritten", "stored", "none"
"""Why an answer is to be looked at: every one is; for fresh timings; a rule of the configuration; to put a
model's name back; for the id under which a follow-up finds its server; not at all."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Requests whose usage must be accounted for: their answers are looked at wherever that can be."""

    header: str = ""
    """Its presence asks for it; empty for none."""
    models: frozenset[str] = frozenset()
    """As the client or the engine names them."""
    objectives: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.header or self.models or self.objectives)

    def ask(self, request: Request) -> bool:
        headers = request.headers
        if self.header and self.header in headers:
            return True
        if self.models and (request.target_model in self.models or request.model in self.models):
            return True
        if not self.objectives:
            return False
        first, alias = OBJECTIVE_HEADERS
        return (headers.get(first) or headers.get(alias)) in self.objectives


class Observation:
    """Also an EndpointObserver."""

    def __init__(
        self,
        ledger: Ledger,
        chance: Random,
        *,
        mode: Mode = Mode.AUTO,
        rules: Rules | None = None,
        interval_s: float = INTERVAL_S,
        rate: float = RATE,
        prefill_rate: float = PREFILL_RATE,
    ) -> None:
        self._ledger = ledger
        self._rules = rules or Rules()
        self._ruled = bool(self._rules)
        self._gateways = Gateways(mode)
        self._sampler = Sampler(chance, interval_s=interval_s, rate=rate)
        self._timings = Timings(prefill_rate=prefill_rate)
        self._dues = DueTokens()
        self._usages = Usages()
        self._answers: dict[tuple[str, str], int] = {}
        self._lost: set[str] = set()
        self._unseen_at = NEVER
        self._unseen = 0
        """Answers that need not be seen and were not."""
        self._last_view: AnswerView | None = None
        self._last = (Gateway.ALWAYS, Mode.ALL)
        self.whole: tuple[AnswerView, ...] = ()
        """Streamed requests that come with one of these need no watch: their answers are all looked at."""
        self.seen = 0
        """Answers of such requests that went by."""
        self.heap = self._dues.heap
        """Not empty: there is something that `settle` may have to apply."""

    # -- one request -------------------------------------------------------------------------------------

    def watch(
        self, request: Request, entry: Entry, *, uncached: int, output: int, rewritten: bool, now: float
    ) -> Watch | None:
        """A request leaves, its ledger entry begun. None: its answer's first token will be seen, nothing more
        to do. That of an answer which is not streamed is not seen, though all of it comes."""
        known, effect = self._known(request.head.answer_view)
        slot, stream, timings = entry.slot, request.stream, self._timings
        seen = known is Gateway.ALWAYS or (known is Gateway.CHOICE and effect is Mode.ALL)
        if seen and (stream or uncached <= 0):
            return None
        cell = timings.cell(slot, request.target_model)
        tokens = self._ledger.prefill_at(slot)
        wanted = NONE
        trial = False
        if seen:
            wanted = ALL
        elif rewritten:
            wanted = REWRITTEN
        elif request.api is Api.RESPONSES:
            wanted = STORED
        elif self._ruled and self._rules.ask(request):
            wanted = ASKED
        elif self._gateways.mode is Mode.ALL:
            wanted = ALL
        elif known is Gateway.NO_OVERRIDE:
            trial = self._gateways.tries(now)
            if not trial:
                wanted = ALL
        elif effect is Mode.SAMPLED and self._sampler.wants(
            cell.streamed if stream else cell.whole, tokens, now
        ):
            wanted = SAMPLE
        observe = wanted is not NONE and known is not Gateway.NEVER
        watch = Watch(cell, entry, wanted, observe, stream, tokens, now, output, trial)
        if not timings.fresh(now):
            cell.told.sent(tokens)
            watch.patient = cell.told.wait(watch, now)
        if observe and stream:
            return watch
        # An answer that is not streamed tells its first token only with its last.
        self._unseen_at = now
        if uncached > 0:
            delay = timings.delay(cell, tokens, now)
            self._dues.put(watch, now + (delay if delay < DELAY_MAX_S else DELAY_MAX_S))
        return watch

    def settle(self, now: float) -> None:
        """Take what must have been prefilled by now out of the ledger; before anyone reads it."""
        self._dues.settle(now)

    def begun(self, watch: Watch, *, streamed: bool) -> None:
        """The answer's headers have come."""
        self._dues.begun(watch, streamed)

    def first_token(self, watch: Watch, now: float) -> None:
        """The answer's body has begun to come by."""
        watch.settled = True
        if not watch.observe:
            self._say(self._gateways.ignored(now))

    def ended(self, watch: Watch, request: Request, report: Report, status: int, now: float) -> None:
        """The request is over. `status` 0: its answer never began, or its headers are not shown."""
        self._dues.ended(watch)
        if not report.observed:
            if not watch.begun and self._dues.heads_come:
                return
            if watch.trial and status < 300:
                self._say(self._gateways.obeyed())
            if watch.wanted is NONE:
                self._unseen += 1
            else:
                self._count("false", watch.wanted)
                self._lose(watch.wanted)
            if status < 300:
                self._usages.unseen(request.target_model, request.input_tokens, watch.expected_output)
            return
        if not watch.observe:
            self._say(self._gateways.ignored(now))
        self._count("true", watch.wanted)
        if status >= 300:
            return
        usage = report.usage or Usage()
        if usage.prompt_tokens is not None:
            self._usages.saw(request.target_model, request.input_tokens, usage.prompt_tokens)
        if watch.streamed and report.first_at > watch.sent_at:
            here = self._timings.cell(watch.entry.slot, request.target_model)
            if here is watch.cell:  # the endpoint that was chosen served it, and is still there
                self._timings.saw(here, watch.tokens, report.first_at - watch.sent_at, now)

    @property
    def wants_counts(self) -> bool:
        """The engines' own counts are all there is to learn from."""
        return self._unseen_at != NEVER and not self._timings.fresh(self._unseen_at)

    def first_tokens(self, slot: int, count: float, total_s: float, now: float) -> None:
        """The endpoint's engine says how many first tokens there were so far, and their seconds together."""
        self._timings.counts(slot, count, total_s, now)

    def forget(self, slot: int) -> None:
        self._timings.forget(slot)

    # -- for the metrics ---------------------------------------------------------------------------------

    def modes(self) -> Iterator[Cell]:
        """(asked, gateway, effect) of every kind of gateway that has come, each 1."""
        gateways = self._gateways
        for kind in gateways.known.values():
            yield (gateways.mode.value, kind.value, gateways.effect(kind).value), 1.0

    def answers(self) -> list[Cell]:
        """By (observed, wanted)."""
        counts = dict(self._answers)
        if self.seen:
            counts["true", ALL] = counts.get(("true", ALL), 0) + self.seen
        if self._unseen:
            counts["false", NONE] = self._unseen
        return list(counts.items())

    def tokens(self) -> Iterator[Cell]:
        """Estimated, of answers that were not looked at."""
        yield ("input",), round(self._usages.input_tokens)
        yield ("output",), round(self._usages.output_tokens)

    # --

    def _known(self, view: AnswerView) -> tuple[Gateway, Mode]:
        """The gateway that shows answers in this way, and how they are looked at."""
        if view is self._last_view:
            return self._last
        gateways = self._gateways
        known = gateways.known.get(view)
        if known is None:
            self._say(gateways.meet(view))
            known = gateways.known[view]
            if gateways.effect(known) is Mode.ALL:
                self.whole = (*self.whole, view)
        self._last_view, self._last = view, (known, gateways.effect(known))
        return self._last

    def _count(self, observed: str, wanted: str) -> None:
        self._answers[observed, wanted] = self._answers.get((observed, wanted), 0) + 1

    def _lose(self, wanted: str) -> None:
        """Said once for each reason."""
        if wanted in self._lost or wanted in (ALL, SAMPLE):
            return
        self._lost.add(wanted)
        what = {
            ASKED: "usage that the configuration asks for is not known",
            REWRITTEN: "the answer names the rewritten model instead of the client's",
            STORED: "a follow-up of a stored answer may not find its server",
        }[wanted]
        log.warning("an answer that should have been looked at was not sent to us: %s", what)

    def _say(self, words: str) -> None:
        if words:
            self._last_view = None
            log.info("%s", words)


class SettledLedger:
    """InflightView for readers outside of a request: what is due is applied first."""

    def __init__(self, ledger: Ledger, observation: Observation, clock: Clock) -> None:
        self._ledger = ledger
        self._observation = observation
        self._clock = clock

    def requests(self, slots: Ints) -> Floats:
        return self._ledger.requests(slots)

    def prefill_tokens(self, slots: Ints) -> Floats:
        self._observation.settle(self._clock())
        return self._ledger.prefill_tokens(slots)

    def decode_tokens(self, slots: Ints) -> Floats:
        return self._ledger.decode_tokens(slots)
