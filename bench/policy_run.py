"""One run of bench/policy.py: sessions over simulated engines in virtual time, and what came of it."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from policy_routers import Router, Ticket
from policy_workloads import Session

from epp.datalayer.load import Load
from epp.sim.clock import VirtualTime
from epp.sim.engine import Engine
from epp.sim.sequence import Rejected
from epp.sim.sequence import Sequence as Running
from epp.sim.step import Step


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in seconds of virtual time; decision times in microseconds of this machine's."""

    requests: int
    refused: int
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    e2e_mean_s: float
    cached_share: float
    """Of all prompt tokens, those that the engines found in their caches."""
    engine_requests: tuple[int, ...]
    busy_share: float
    """Of the engines' time until the last arrival, with a step under way."""
    prefill_share: float
    """The same, spent on prompt tokens."""
    preemptions: int
    decision_p50_us: float
    """Hashing of the prompt included, parsing not."""
    decision_p99_us: float
    span_s: float
    """From the first arrival to the last answer's end."""


class Run:
    """Plays once. Every request is sent when it is due, whatever became of the others (a chat's next turn
    is due a pause after its answer)."""

    def __init__(
        self,
        sessions: Sequence[Session],
        engines: Sequence[Engine],
        routers: Sequence[Router],
        *,
        speed: float,
        scrape_s: float,
        until_s: float = np.inf,
    ) -> None:
        """Times of sessions are divided by `speed`; nothing is sent from `until_s` on. With several routers
        each session has one of them, in turn."""
        self._clock = VirtualTime(engines, self._stepped)
        self._engines = engines
        self._routers = routers
        self._speed = speed
        self._scrape_s = scrape_s
        self._until_s = until_s
        self._open: dict[Running, tuple[Ticket, Session, int, int]] = {}
        """With the session, the number of its turn and its router."""
        self._ttft, self._e2e, self._decisions = array("d"), array("d"), array("d")
        self._sent = [0] * len(engines)
        self._refused = self._prompt_tokens = self._cached_tokens = 0
        self._busy_s = self._prefill_s = self._last_arrival_s = 0.0
        self._busy_now_s = self._prefill_now_s = 0.0
        self._due = 0
        """Turns that will come."""
        for number, session in enumerate(sessions):
            self._plan(session.at / speed, session, 0, number % len(routers))
        for index in range(len(engines)):
            self._clock.at(scrape_s * index / len(engines), partial(self._scrape, index))

    def play(self) -> Figures:
        """Raises ValueError when no request was served."""
        self._clock.run()
        if not self._ttft:
            raise ValueError("every request was refused: too long for the profile")
        ttft, e2e, decisions = (np.asarray(column) for column in (self._ttft, self._e2e, self._decisions))
        engine_s = len(self._engines) * max(self._last_arrival_s, 1e-9)
        p50, p99 = np.percentile(ttft, (50, 99)).tolist()
        return Figures(
            requests=len(ttft),
            refused=self._refused,
            ttft_mean_s=float(ttft.mean()),
            ttft_p50_s=p50,
            ttft_p99_s=p99,
            e2e_mean_s=float(e2e.mean()),
            cached_share=self._cached_tokens / max(1, self._prompt_tokens),
            engine_requests=tuple(self._sent),
            busy_share=self._busy_s / engine_s,
            prefill_share=self._prefill_s / engine_s,
            preemptions=sum(engine.counters.preemptions for engine in self._engines),
            decision_p50_us=float(np.percentile(decisions, 50)),
            decision_p99_us=float(np.percentile(decisions, 99)),
            span_s=self._clock.now,
        )

    def _plan(self, at: float, session: Session, turn: int, router: int) -> None:
        if turn < len(session.turns) and at < self._until_s:
            self._due += 1
            self._clock.at(at, partial(self._arrive, session, turn, router))

    def _arrive(self, session: Session, turn: int, router: int) -> None:
        self._due -= 1
        clock = self._clock
        request, work = session.turns[turn].make()
        began = time.perf_counter()
        ticket = self._routers[router].choose(request, clock.now)
        self._decisions.append(1e6 * (time.perf_counter() - began))
        self._sent[ticket.engine] += 1
        self._last_arrival_s = clock.now
        self._busy_s, self._prefill_s = self._busy_now_s, self._prefill_now_s
        try:
            running = clock.add(ticket.engine, work)
        except Rejected:
            self._refused += 1
            ticket.ended(0, clock.now)
            return
        self._open[running] = (ticket, session, turn, router)

    def _stepped(self, index: int, step: Step) -> None:
        self._busy_now_s += step.at - step.began_at
        engine = self._engines[index]
        self._prefill_now_s += step.prefill_tokens * engine.profile.prefill_token_s * engine.slow
        for running in step.first:
            self._open[running][0].first_token(step.at)
            self._ttft.append(running.first_token_at - running.arrived_at)
            self._prompt_tokens += running.work.prompt_tokens
            self._cached_tokens += running.cached_tokens
        for running in step.finished:
            ticket, session, turn, router = self._open.pop(running)
            ticket.ended(running.work.output_tokens, step.at)
            self._e2e.append(running.finished_at - running.arrived_at)
            following = turn + 1
            if following < len(session.turns):
                pause_s = session.turns[following].pause_s / self._speed
                self._plan(step.at + pause_s, session, following, router)

    def _scrape(self, index: int) -> None:
        """As the engine's metrics would say it, to every router."""
        engine, clock = self._engines[index], self._clock
        load = Load(
            waiting=engine.waiting,
            running=engine.running,
            kv_used=engine.kv.usage,
            block_size=engine.profile.block_tokens,
            num_blocks=engine.profile.kv_blocks,
        )
        for router in self._routers:
            router.scraped(index, load, clock.now)
        if self._due or self._open:
            clock.at(clock.now + self._scrape_s, partial(self._scrape, index))
