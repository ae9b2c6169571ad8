"""Which models each endpoint serves: asked by `/v1/models`, rarely, and added to by what the metrics tell.

A filter for mixed pools, and the question whether it is certain that nobody serves a model. An adapter may be
loaded at any moment, so certainty needs lists of the last few seconds: the first request for an unknown model
has everybody asked again and still goes to an engine, which answers 404 by itself if need be.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from random import Random

import msgspec
import numpy as np

from epp.datalayer.connection import Connection, HttpSource
from epp.datalayer.counting import ScrapeErrors, Uncounted
from epp.datalayer.store import Store
from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import NEVER, Bools, Ints, Snapshot
from epp.domain.views import Clock

SOURCE = "models-data-source"
INTERVAL_S = 10.0
SPREAD_S = 0.01
"""The interval is at least this long an endpoint: 100 questions a second cost 2 % of a core."""
CERTAIN_S = 5.0
"""How fresh every list must be for a 404 of our own, and how often an unknown model has them asked again."""
FORGET_INTERVALS = 3.5
"""A list that could not be renewed three times is no longer believed."""
DEADLINE_S = 2.0
AT_ONCE = 16
MAX_BODY_BYTES = 1 << 20
MAX_NAMES = 10_000
MAX_MASKS = 1024
"""Model names whose filter answer is kept; clients choose them."""
_log = logging.getLogger(__name__)


class _Model(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Model]


_decoder = msgspec.json.Decoder(_List)


def model_names(body: bytes) -> frozenset[str]:
    """Ids of a `/v1/models` answer. Raises ValueError when it is none."""
    names = frozenset(model.id for model in _decoder.decode(body).data)
    if len(names) > MAX_NAMES:
        raise ValueError(f"more than {MAX_NAMES} models")
    return names


class _Masks:
    """Filter answers of the newest list of models. A memo: it changes no answer."""

    def __init__(self) -> None:
        self._models: tuple[frozenset[str] | None, ...] = ()
        self._masks: dict[str, Bools] = {}

    def of(self, models: tuple[frozenset[str] | None, ...], model: str) -> Bools:
        if models is not self._models or len(self._masks) >= MAX_MASKS:
            self._models, self._masks = models, {}
        mask = self._masks.get(model)
        if mask is None:
            listed = (names is None or model in names for names in models)
            mask = self._masks[model] = np.fromiter(listed, np.bool_, len(models))
            mask.flags.writeable = False
        return mask


_masks = _Masks()


def serving(snapshot: Snapshot, model: str, rows: Ints) -> Bools:
    """One boolean for each of `rows`: False where it is known that the endpoint does not serve `model`."""
    mask: Bools = _masks.of(snapshot.models, model)[rows]
    return mask


def certainly_unserved(snapshot: Snapshot, model: str, rows: Ints) -> bool:
    """Whether every one of `rows` has told its models and none of them is `model`.

    The lists may be as old as the probe's interval; `ModelProbe.certainly_unserved` knows how old they are.
    """
    return len(rows) > 0 and not serving(snapshot, model, rows).any()


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


class ModelProbe:
    """Keeps the store's lists of models. Own `run` in a task group."""

    def __init__(
        self,
        store: Store,
        *,
        source: HttpSource | None = None,
        errors: ScrapeErrors | None = None,
        interval_s: float = INTERVAL_S,
        clock: Clock = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        """Raises OSError when a TLS file of `source` cannot be used."""
        self._store = store
        self._source = source or HttpSource(path="/v1/models")
        self._tls = self._source.tls()
        self._errors = errors or Uncounted()
        self._base_s = interval_s
        self._clock = clock
        self._rng = rng or Random()
        self._known_at: dict[Endpoint, float] = {}
        self._due_at: dict[Endpoint, float] = {}
        self._hurried_at = NEVER
        self._pool_version = -1
        self._woken = asyncio.Event()

    @property
    def interval_s(self) -> float:
        """Seconds between two questions to one endpoint; grows with the pool."""
        return max(self._base_s, SPREAD_S * len(self._store))

    def certainly_unserved(self, snapshot: Snapshot, model: str, rows: Ints, now: float) -> bool:
        """Whether a 404 of our own is right: every list of `rows` is known, fresh and without `model`.

        When lists are merely too old, they are asked for again, so that the next answer can be certain.
        """
        if not certainly_unserved(snapshot, model, rows):
            return False
        known_at, endpoints = self._known_at, snapshot.endpoints
        if all(now - known_at.get(endpoints[row], NEVER) <= CERTAIN_S for row in rows.tolist()):
            return True
        self.hurry(now)
        return False

    def hurry(self, now: float) -> None:
        """Ask every endpoint again, soon; at most once in CERTAIN_S."""
        if now - self._hurried_at >= CERTAIN_S:
            self._hurried_at = now
            for endpoint in self._due_at:
                self._due_at[endpoint] = now
            self._woken.set()

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            self._woken.clear()
            now = self._clock()
            self._follow_pool(now)
            due = [endpoint for endpoint, at in self._due_at.items() if at <= now]
            if due:
                await self._ask_all(due)
            try:
                async with asyncio.timeout(0.25):
                    await self._woken.wait()
            except TimeoutError:
                pass

    def _follow_pool(self, now: float) -> None:
        if self._store.pool_version == self._pool_version:
            return
        self._pool_version = self._store.pool_version
        held = self._due_at
        self._due_at = {endpoint: held.get(endpoint, now) for endpoint in self._store.endpoints}
        self._known_at = {endpoint: at for endpoint, at in self._known_at.items() if endpoint in self._due_at}

    async def _ask_all(self, endpoints: Sequence[Endpoint]) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def ask(endpoint: Endpoint) -> None:
            async with slots:
                await self._ask(endpoint)

        async with asyncio.TaskGroup() as group:
            for endpoint in endpoints:
                group.create_task(ask(endpoint))

    async def _ask(self, endpoint: Endpoint) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                status, body = await self._get(endpoint)
            if status != 200:
                raise ValueError(f"answered {status}")
            names = model_names(body)
        except (OSError, ValueError, TimeoutError, RecursionError, msgspec.MsgspecError) as why:
            self._failed(endpoint, why)
        else:
            now = self._clock()
            if endpoint in self._due_at:
                self._known_at[endpoint] = now
            self._store.set_models(endpoint, names, now)
        now = self._clock()
        if endpoint in self._due_at:
            self._due_at[endpoint] = now + self.interval_s * self._rng.uniform(0.9, 1.1)

    def _failed(self, endpoint: Endpoint, why: Exception) -> None:
        now = self._clock()
        self._errors.poll_errors(SOURCE)
        _log.debug("models of %s are not known: %s", endpoint.key, why)
        if now - self._known_at.get(endpoint, NEVER) > FORGET_INTERVALS * self.interval_s:
            self._known_at.pop(endpoint, None)
            self._store.set_models(endpoint, None, now)

    async def _get(self, endpoint: Endpoint) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        port = self._source.port or endpoint.port
        request = self._source.request(endpoint.authority)
        connection = Connection(request, _Once(answer), MAX_BODY_BYTES)
        try:
            await loop.create_connection(
                lambda: connection,
                endpoint.ip,
                port,
                ssl=self._tls,
                server_hostname=endpoint.ip if self._tls is not None else None,
            )
            if not connection.connected:
                raise OSError("closed when connected")
            connection.ask()
            return await answer
        finally:
            connection.close()
