"""One pool: what is known of it, and the policy that is in force. Requests come in by `open`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from epp.adapters import ScrapeCounts
from epp.call import RequestCall
from epp.config.loaded import Loaded
from epp.config.reload import ConfigWatch
from epp.domain.endpoint import EndpointSpec
from epp.domain.objective import Objective
from epp.domain.pool import AppProtocol
from epp.domain.request import RequestHead
from epp.domain.rewrite import Rewrite
from epp.domain.views import Abort
from epp.feeds import FileFeeds, Files
from epp.generation import Generation, Services, settled
from epp.known import Known
from epp.queues import Queues
from epp.web.flow import FlowPage

log = logging.getLogger("epp.pool")

LOOK_S = 3.0
"""So long a start waits for endpoints that do not answer: what others sent counts from the beginning."""
MAX_PRIORITIES = 500
"""Of objectives, each with queues of its own that every decision looks at: more would make all pools wait."""


def open_pool(label: str, config: ConfigWatch, services: Services, files: Files | None = None) -> Pool:
    """A pool that follows its configuration."""
    pool = Pool(label, config.loaded, services, files=files)
    pool.config = config
    config.on_loaded = pool.adopt
    return pool


class Pool:
    """A Door, and whom discovery tells. Everything is called by the event loop; `close` ends it."""

    def __init__(self, label: str, loaded: Loaded, services: Services, *, files: Files | None = None) -> None:
        """`label` names it in metrics. Raises ValueError or OSError for options that cannot be used."""
        self.label = label
        self._services = services
        self.known = Known(loaded.own, self)
        self.files = None if files is None else FileFeeds(files, self.known, ScrapeCounts(services.metrics))
        self.generation = Generation(label, loaded, self.known, services)
        self.config: ConfigWatch | None = None
        """Where it has its configuration from, as it changes."""
        self._leaving: list[Queues] = []
        """Of generations before, where something still waits."""
        self._secret: asyncio.Task[None] | None = None
        self._pinned = -1
        self._crowded = False
        """It has more priorities than queues are made for."""
        self._protocol: AppProtocol | None = None
        self._looked = False
        """It has begun."""
        self._look_until = 0.0
        metrics, clock = services.metrics, services.clock
        metrics.watch_pool(label, self.known.store, settled(self.known, clock), clock, services.staleness_s)
        metrics.watch_answers(self.known.observation, pool=label)
        self.known.objectives.observe(self._provision)
        self.known.rewrites.observe(lambda names: self._pin_models())
        self.page = self._begin()
        """Its queues, for who looks."""

    # -- requests ------------------------------------------------------------------------------------------

    def open(self, head: RequestHead, abort: Abort | None = None) -> RequestCall:
        return self.generation.director.open(head, abort)

    def open_answer(self, authority: str = "", pool: str = "") -> RequestCall:
        return self.generation.director.open_answer()

    # -- discovery -----------------------------------------------------------------------------------------

    def set_endpoints(self, specs: Sequence[EndpointSpec]) -> None:
        self.known.store.set_endpoints(specs, self._services.clock())

    def serve(self, protocol: AppProtocol | None) -> None:
        """What the model servers speak, as the pool's object says; None where nothing says it."""
        self._protocol = protocol

    def set_objectives(self, by_name: Mapping[str, Objective]) -> None:
        self.known.objectives.replace(by_name)

    def set_rewrites(self, rewrites: Sequence[Rewrite]) -> None:
        self.known.rewrites.replace(rewrites)

    def missing(self) -> Sequence[str]:
        """What is missing until requests can be taken; nothing means ready."""
        if self._protocol is AppProtocol.HTTP and all(one.h2c_only for one in self.generation.loaded.parsers):
            return (
                f"the pool's appProtocol is {self._protocol}, but all that its configuration parses is gRPC: "
                f"set appProtocol: {AppProtocol.H2C}, or another parser under requestHandler",
            )
        return self.beginning()

    def beginning(self) -> Sequence[str]:
        """The part of `missing` that passes by itself; it ends for good."""
        if self._looked:
            return ()
        if not self.known.store.synced:
            return ("the pool's endpoints are not known yet",)
        now = self._services.clock()
        self._look_until = self._look_until or now + LOOK_S
        self._looked = self.generation.asked or now >= self._look_until
        return () if self._looked else ("not all endpoints have been asked yet how busy they are",)

    # -- its time ------------------------------------------------------------------------------------------

    def load(self) -> None:
        """First reading of the files; raises EndpointsFileError and ObjectivesError."""
        if self.files is not None:
            self.files.load()

    def work(self) -> Sequence[Coroutine[Any, Any, None]]:
        """What is to run until cancelled."""
        return () if self.files is None else self.files.work()

    def tick(self, now: float) -> None:
        """Every now and then, a few times a second."""
        self.known.tick(now)
        for queues in tuple(self._leaving):
            queues.changed()
            if not len(queues.control):
                self._leaving.remove(queues)
        if self.generation.queues is not None:
            # Room may be made by what a configuration before began, and its end is not told to these.
            self.generation.queues.changed()

    def pin_models(self) -> None:
        """Names that the pool serves are shown in metrics, whatever clients make up."""
        store = self.known.store
        if store.models_version != self._pinned:
            self._pinned = store.models_version
            self._pin_models()

    def adopt(self, loaded: Loaded) -> None:
        """Put this configuration in force. Raises ValueError or OSError, and keeps the one before then."""
        before = self.generation
        after = Generation(self.label, loaded, self.known, self._services, before)
        before.leave(after)
        if before.queues is not None and before.queues is not after.queues:
            self._leaving.append(before.queues)
        self.generation = after
        self.page = self._begin()

    def shutdown(self) -> int:
        """Everybody who waits is told that we go, and no file is watched any more. How many they were."""
        self._watch_secret(None)
        queues = [*self._leaving, *([] if self.generation.queues is None else [self.generation.queues])]
        return sum(one.shutdown() for one in queues)

    def close(self) -> None:
        """The pool is gone: nothing of it is asked or shown any more."""
        self.shutdown()
        self.generation.leave()
        self.known.store.set_endpoints((), self._services.clock())
        self._services.metrics.unwatch_pool(self.label)

    def forget(self, slot: int) -> None:
        """EndpointObserver: told by the store."""
        self.generation.forget(slot)

    def _begin(self) -> FlowPage:
        generation = self.generation
        page = generation.begin()
        queues = generation.queues
        if queues is not None:
            self._provision(self.known.objectives.priorities)
        self.known.store.on_change = None if queues is None else queues.changed
        self._watch_secret(generation)
        return page

    def _pin_models(self) -> None:
        known = self.known
        self._services.metrics.pin_models(known.store.models().union(known.rewrites.names), pool=self.label)

    def _provision(self, priorities: frozenset[int]) -> None:
        queues = self.generation.queues
        if queues is None:
            return
        crowded, self._crowded = self._crowded, len(priorities) > MAX_PRIORITIES
        if self._crowded:
            if not crowded:
                words = "pool %s: objectives of %d priorities; the %d nearest to 0 count, the others as 0"
                log.error(words, self.label, len(priorities), MAX_PRIORITIES)
            default = self.known.objectives.default_priority
            nearest = sorted(priorities, key=lambda one: (one != default, abs(one), one))
            priorities = frozenset(nearest[:MAX_PRIORITIES])
        queues.provision(priorities)

    def _watch_secret(self, generation: Generation | None) -> None:
        if self._secret is not None:
            self._secret.cancel()
            self._secret = None
        if generation is not None and generation.secret_file is not None:
            self._secret = asyncio.get_running_loop().create_task(generation.secret_file.run())
