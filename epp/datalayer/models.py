"""Which models each endpoint serves: asked by `/v1/models`, rarely, and added to by what the metrics tell.

An adapter may be loaded at any moment, so to be certain that nobody serves a model needs lists of the last
few seconds: the first request for an unknown model has everybody asked again and still goes to an engine,
which answers 404 by itself if need be.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from random import Random

import msgspec

from epp.datalayer.connection import Connection, HttpSource
from epp.datalayer.counting import ScrapeErrors, Uncounted
from epp.datalayer.serving import certainly_unserved, model_names
from epp.datalayer.store import Store
from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import NEVER, Ints, Snapshot
from epp.domain.views import Clock

SOURCE = "models-data-source"
INTERVAL_S = 10.0
SPREAD_S = 0.01
"""The interval is at least this long an endpoint: 100 questions a second cost 2 % of a core."""
CERTAIN_S = 5.0
"""How fresh every list must be for a 404 of our own, and how often an unknown model has them asked again."""
RETRY_S = 1.0
"""Who never told is asked again after this, twice, four times it, up to the interval, which may be long
where pools are many."""
FORGET_INTERVALS = 3.5
"""A list that could not be renewed three times is no longer believed."""
DEADLINE_S = 2.0
AT_ONCE = 256
"""Questions under way: a pool whose endpoints do not answer leaves room for the others."""
FIRST_S = 0.002
"""Endpoints that come are asked at most so close upon each other."""
MAX_BODY_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class _Once:
    """The asker of one question."""

    def __init__(self, answer: asyncio.Future[tuple[int, bytes]]) -> None:
        self._answer = answer

    def answered(self, status: int, body: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result((status, body))

    def failed(self, why: str) -> None:
        if not self._answer.done():
            self._answer.set_exception(OSError(why))


class _Question:
    """What is known of one endpoint, and when it is asked next."""

    __slots__ = ("asking", "due_at", "endpoint", "failures", "gone", "known_at", "probe")

    def __init__(self, probe: ModelProbe, endpoint: Endpoint) -> None:
        self.probe = probe
        self.endpoint = endpoint
        self.known_at = NEVER
        self.due_at = 0.0
        self.failures = 0
        """Until the first success."""
        self.asking = False
        self.gone = False


class ModelProbe:
    """One pool's lists of models, and how old they are. Made by `ModelProber.join`."""

    def __init__(
        self, prober: ModelProber, store: Store, source: HttpSource, errors: ScrapeErrors, base_s: float
    ) -> None:
        self.store = store
        self.source = source
        self.errors = errors
        self.base_s = base_s
        self.questions: dict[int, _Question] = {}
        """By slot."""
        self._prober = prober
        self._hurried_at = NEVER
        store.on_pool_change.append(self._pool_changed)

    @property
    def interval_s(self) -> float:
        """Seconds between two questions to one endpoint; grows with the pools."""
        return max(self.base_s, self._prober.least_interval_s)

    def certainly_unserved(self, snapshot: Snapshot, model: str, rows: Ints, now: float) -> bool:
        """Whether a 404 of our own is right: every list of `rows` is known, fresh and without `model`.

        When lists are merely too old, they are asked for again, so that the next answer can be certain.
        """
        if not certainly_unserved(snapshot, model, rows):
            return False
        endpoints = snapshot.endpoints
        if all(now - self._known_at(endpoints[row]) <= CERTAIN_S for row in rows.tolist()):
            return True
        self.hurry(now)
        return False

    def hurry(self, now: float) -> None:
        """Ask every endpoint again, soon; at most once in CERTAIN_S."""
        if now - self._hurried_at >= CERTAIN_S:
            self._hurried_at = now
            self._prober.hurry(self.questions.values(), now)

    def leave(self) -> None:
        """No endpoint is asked any more; what is known stays as it is."""
        if self._pool_changed in self.store.on_pool_change:
            self.store.on_pool_change.remove(self._pool_changed)
            self._prober.left(self)

    def _known_at(self, endpoint: Endpoint) -> float:
        question = self.questions.get(endpoint.slot)
        return question.known_at if question is not None and question.endpoint is endpoint else NEVER

    def _pool_changed(self) -> None:
        self._prober.follow(self)


class ModelProber:
    """Keeps the lists of any number of pools. Own `run` in a task group; idle it does not wake."""

    def __init__(
        self, *, clock: Clock = time.monotonic, rng: Random | None = None, retry_s: float = RETRY_S
    ) -> None:
        self._clock = clock
        self._retry_s = retry_s
        self._rng = rng or Random()
        self._due: list[tuple[float, int, _Question]] = []
        self._order = count()
        self._endpoints = 0
        self._asking = 0
        self._first_at = NEVER
        """When the last of those who came is asked for the first time."""
        self._woken = asyncio.Event()

    def join(
        self,
        store: Store,
        *,
        source: HttpSource | None = None,
        errors: ScrapeErrors | None = None,
        interval_s: float = INTERVAL_S,
    ) -> ModelProbe:
        """Ask the endpoints of this store from now on. Raises OSError when a TLS file of `source` cannot be
        used."""
        source = source or HttpSource(path="/v1/models")
        source.tls()
        probe = ModelProbe(self, store, source, errors or Uncounted(), interval_s)
        self.follow(probe)
        return probe

    @property
    def least_interval_s(self) -> float:
        return SPREAD_S * self._endpoints

    async def run(self) -> None:
        """Asks until cancelled."""
        async with asyncio.TaskGroup() as asking:
            while True:
                self._woken.clear()
                now = self._clock()
                while self._due and self._due[0][0] <= now and self._asking < AT_ONCE:
                    at, _, question = heappop(self._due)
                    if question.gone or question.asking or question.due_at != at:
                        continue  # asked already, or again at another time
                    question.asking = True
                    self._asking += 1
                    asking.create_task(self._ask(question))
                if not self._due or self._asking >= AT_ONCE:
                    await self._woken.wait()
                    continue
                try:
                    async with asyncio.timeout(max(0.0, self._due[0][0] - self._clock())):
                        await self._woken.wait()
                except TimeoutError:
                    pass

    # -- what the pools call -----------------------------------------------------------------------------

    def follow(self, probe: ModelProbe) -> None:
        now = self._clock()
        held = probe.questions
        before = len(held)
        probe.questions = {}
        for endpoint in probe.store.endpoints:
            question = held.get(endpoint.slot)
            if question is None or question.endpoint is not endpoint:
                question = _Question(probe, endpoint)
                # Not all at once where thousands come.
                self._first_at = max(now, self._first_at + FIRST_S)
                self._schedule(question, self._first_at)
            else:
                del held[endpoint.slot]
            probe.questions[endpoint.slot] = question
        for question in held.values():
            question.gone = True
        self._endpoints += len(probe.questions) - before
        self._woken.set()

    def left(self, probe: ModelProbe) -> None:
        for question in probe.questions.values():
            question.gone = True
        self._endpoints -= len(probe.questions)
        probe.questions = {}

    def hurry(self, questions: Iterable[_Question], now: float) -> None:
        for question in questions:
            self._schedule(question, now)
        self._woken.set()

    # -- inside ------------------------------------------------------------------------------------------

    def _schedule(self, question: _Question, at: float) -> None:
        question.due_at = at
        heappush(self._due, (at, next(self._order), question))

    async def _ask(self, question: _Question) -> None:
        probe, endpoint = question.probe, question.endpoint
        try:
            async with asyncio.timeout(DEADLINE_S):
                status, body = await _get(probe.source, endpoint)
            if status != 200:
                raise ValueError(f"answered {status}")
            names = model_names(body)
        except (OSError, ValueError, TimeoutError, RecursionError, msgspec.MsgspecError) as why:
            self._failed(question, why)
        else:
            question.known_at = self._clock()
            if not question.gone:
                probe.store.set_models(endpoint, names, question.known_at)
        finally:
            question.asking = False
            self._asking -= 1
            self._woken.set()
        if not question.gone:
            rest_s = probe.interval_s
            if question.known_at == NEVER:
                rest_s = min(rest_s, self._retry_s * 2 ** min(question.failures, 16))
                question.failures += 1
            self._schedule(question, self._clock() + rest_s * self._rng.uniform(0.9, 1.1))

    def _failed(self, question: _Question, why: Exception) -> None:
        probe, now = question.probe, self._clock()
        if question.gone:
            return
        probe.errors.poll_errors(SOURCE)
        _log.debug("models of %s are not known: %s", question.endpoint.key, why)
        if now - question.known_at > FORGET_INTERVALS * probe.interval_s:
            question.known_at = NEVER
            probe.store.set_models(question.endpoint, None, now)


async def _get(source: HttpSource, endpoint: Endpoint) -> tuple[int, bytes]:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
    connection = Connection(source.request(endpoint.authority), _Once(answer), MAX_BODY_BYTES)
    tls = source.tls()
    try:
        await loop.create_connection(
            lambda: connection,
            endpoint.ip,
            source.port or endpoint.port,
            ssl=tls,
            server_hostname=source.server_hostname(endpoint.ip),
        )
        if not connection.connected:
            raise OSError("closed when connected")
        connection.ask()
        return await answer
    finally:
        connection.close()
