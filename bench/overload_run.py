"""One run of bench/overload.py in virtual time: asks through an admission and the picker to the engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import inf

from overload_admission import Build
from overload_scene import Ask, Job, works
from policy_routers import Picker, Sent

from epp.config.loader import load_preset
from epp.datalayer.load import Load
from epp.domain.errors import Refused
from epp.sim.clock import VirtualTime
from epp.sim.engine import Engine
from epp.sim.profile import Profile
from epp.sim.sequence import Sequence as Running
from epp.sim.step import Step

_UNLIMITED = 1 << 30


def engines_of(profile: Profile, count: int, seed: int) -> list[Engine]:
    return [Engine(profile, seed=seed + i, max_waiting=_UNLIMITED) for i in range(count)]


def capacity(
    profile: Profile, count: int, seed: int, *, warm_s: float, until_s: float
) -> tuple[float, float]:
    """Requests and tokens a second that the engines finish while each always has a full batch waiting."""
    engines = engines_of(profile, count, seed)
    source = works(seed)
    done = tokens = 0

    def stepped(index: int, step: Step) -> None:
        nonlocal done, tokens
        for seq in step.finished:
            clock.add(index, next(source))
            if clock.now >= warm_s:
                done += 1
                tokens += seq.work.prompt_tokens + seq.work.output_tokens

    clock = VirtualTime(engines, stepped)
    for index in range(count):
        for _ in range(2 * profile.max_num_seqs):
            clock.add(index, next(source))
    clock.run(until_s)
    return done / (until_s - warm_s), tokens / (until_s - warm_s)


class Run:
    """Plays once, until every request was answered or given up."""

    def __init__(
        self, asks: Iterator[Ask], engines: Sequence[Engine], build: Build, *, scrape_s: float, seed: int
    ) -> None:
        self._clock = VirtualTime(engines, self._stepped)
        self._engines = engines
        self._picker = Picker(load_preset("expected-work"), len(engines), scrape_s=scrape_s, seed=seed)
        self.admission = build(self._picker, self)
        self._asks = asks
        self._scrape_s = scrape_s
        self._open: dict[Running, tuple[Job, Sent]] = {}
        self._waking_at = inf
        self.jobs: list[Job] = []
        """In order of first arrival."""
        self.sent: list[tuple[float, int]] = []
        """When and of which priority something went to an engine."""
        self._more = True
        self._returning = 0
        for index in range(len(engines)):
            self._clock.at(scrape_s * index / len(engines), partial(self._scrape, index))

    def play(self) -> Sequence[Job]:
        self._next()
        self._clock.run()
        return self.jobs

    # What the admission asks for

    def send(self, job: Job) -> None:
        now = self._clock.now
        self.sent.append((now, job.ask.band.priority))
        sent = self._picker.choose(job.ask.request(), now)
        self._open[self._clock.add(sent.engine, job.ask.work())] = (job, sent)

    def refuse(self, job: Job, refused: Refused) -> None:
        now = self._clock.now
        job.refused_at.append(now)
        job.retry_after_s.append(refused.retry_after_s)
        if len(job.refused_at) <= job.ask.patience:
            self._returning += 1
            self._clock.at(now + refused.retry_after_s, partial(self._return, job))

    def abort(self, job: Job, refused: Refused) -> int:
        running, sent = next((running, sent) for running, (one, sent) in self._open.items() if one is job)
        del self._open[running]
        self._clock.abort(sent.engine, running)
        sent.entry.end()
        job.first_token_at = inf
        self.refuse(job, refused)
        return running.done_tokens

    # What happens

    def _next(self) -> None:
        ask = next(self._asks, None)
        if ask is None:
            self._more = False
        else:
            self._clock.at(ask.at, partial(self._arrive, ask))

    def _arrive(self, ask: Ask) -> None:
        job = Job(ask)
        self.jobs.append(job)
        self._next()
        self.admission.arrive(job, self._clock.now)
        self._sleep()

    def _return(self, job: Job) -> None:
        self._returning -= 1
        self.admission.arrive(job, self._clock.now)
        self._sleep()

    def _stepped(self, index: int, step: Step) -> None:
        if not step.first and not step.finished:
            return
        for running in step.first:
            job, sent = self._open[running]
            job.first_token_at = step.at
            sent.first_token(step.at)  # makes room, which is looked at with the next snapshot or end
        for running in step.finished:
            job, sent = self._open.pop(running)
            job.finished_at = step.at
            sent.ended(running.work.output_tokens, step.at)
            self.admission.finished(job, step.at)
        if step.finished:
            self._wake()

    def _scrape(self, index: int) -> None:
        engine, clock = self._engines[index], self._clock
        load = Load(
            waiting=engine.waiting,
            running=engine.running,
            kv_used=engine.kv.usage,
            block_size=engine.profile.block_tokens,
            num_blocks=engine.profile.kv_blocks,
        )
        self._picker.scraped(index, load, clock.now)
        self._wake()
        if self._more or self._open or self._returning or self._waking_at < inf:
            clock.at(clock.now + self._scrape_s, partial(self._scrape, index))

    def _wake(self) -> None:
        self.admission.wake(self._clock.now)
        self._sleep()

    def _sleep(self) -> None:
        """Until the next deadline, where it comes before the one that was waited for."""
        at = self.admission.next_at()
        if at < self._waking_at:
            self._waking_at = at
            self._clock.at(at, partial(self._deadline, at))

    def _deadline(self, at: float) -> None:
        if at == self._waking_at:
            self._waking_at = inf
        self._wake()
