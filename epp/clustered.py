"""The process's side towards a cluster: what its API says of pools, whether we lead, who may read metrics."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any

from epp.domain.access import Access
from epp.kube.api import Kube
from epp.kube.cluster import Cluster
from epp.kube.events import Events
from epp.kube.following import PoolWorld
from epp.kube.informer import Informer
from epp.kube.lease import Lease, identity_of, lease_name
from epp.kube.reviews import Reviews
from epp.kube.selection import ManyPools, OnePool, PodsAlone, Selection, Source
from epp.kube.selectors import EVERYTHING, parse
from epp.options import KubeOptions
from epp.telemetry.metrics import Metrics

log = logging.getLogger("epp.kube")

_LOOK_S = 1.0
_PATIENCE_S = 2.0
"""What lasts no longer than that, such as a list that is just being read, is nothing to tell of."""
_REMIND_S = 60.0
"""Between two lines about the same trouble."""


def selection_of(options: KubeOptions, pool_name: str, namespace: str) -> Selection:
    """What the flags mean. Raises ValueError for selectors that are none."""
    pods = parse(options.endpoint_selector) if options.endpoint_selector else EVERYTHING
    if options.many:
        pools = parse(options.pool_selector) if options.pool_selector else EVERYTHING
        return ManyPools(None if options.all_namespaces else namespace, pools, pods)
    source = Source(options.source)
    if options.endpoint_selector:
        return PodsAlone(namespace, pool_name, pods, options.target_ports, source)
    return OnePool(namespace, pool_name, options.pool_group, source)


class Clustered:
    """`open` it, run what `work` gives until cancelled, then `close` it. Also reviews callers of the web
    listener."""

    def __init__(
        self,
        options: KubeOptions,
        pool_name: str,
        world: PoolWorld,
        environ: Mapping[str, str],
        metrics: Metrics,
    ) -> None:
        """Raises ValueError for selectors that are none."""
        selection_of(options, pool_name, "default")
        self._options = options
        self._pool_name = pool_name
        self._world = world
        self._environ = environ
        self._metrics = metrics
        self._kube: Kube | None = None
        self._cluster: Cluster | None = None
        self._events: Events | None = None
        self._reviews: Reviews | None = None
        self._lease: Lease | None = None
        self._electing: asyncio.Task[None] | None = None
        self._resigned = False

    async def open(self) -> None:
        """Nothing is asked of the API yet. Raises KubeConfigError for credentials that cannot be used."""
        options, environ = self._options, self._environ
        kube = self._kube = await Kube.open(options.kubeconfig, environ)
        namespace = options.namespace or kube.namespace
        identity = identity_of(environ, socket.gethostname())
        self._reviews = Reviews(kube)
        self._events = Events(kube, identity)
        self._cluster = Cluster(
            partial(Informer, kube),
            selection_of(options, self._pool_name, namespace),
            self._world,
            self._events,
        )
        if options.elect:
            self._lease = Lease(kube, namespace, lease_name(namespace, self._pool_name), identity)
        where = "all namespaces" if options.all_namespaces else f"namespace {namespace}"
        log.info("following %s of the cluster at %s", where, kube.server)

    def work(self) -> Sequence[Coroutine[Any, Any, None]]:
        """What is to run until cancelled."""
        assert self._cluster is not None
        assert self._events is not None
        return self._cluster.run(), self._events.run(), self._elect(), self._look()

    def missing(self) -> Sequence[str]:
        """Why requests should not come here yet, or not any more."""
        if self._cluster is None:
            return ("the cluster is not followed yet",)
        said = list(self._cluster.missing())
        if self._lease is not None and not self._lease.is_leader:
            if self._lease.trouble:
                said.append(f"this replica does not lead: {self._lease.trouble}")
            else:
                said.append(f"another replica leads: {self._lease.holder or 'nobody yet'}")
        return said

    def trouble(self) -> Sequence[str]:
        """What is not followed right now; routing goes on with what was known."""
        return () if self._cluster is None else self._cluster.trouble()

    def resign(self) -> None:
        """Let another replica lead: we go."""
        self._resigned = True
        if self._electing is not None:
            self._electing.cancel()

    async def close(self) -> None:
        if self._kube is not None:
            await self._kube.close()

    async def review(self, token: str, verb: str, path: str) -> Access:
        """May whoever has this token read that page?"""
        if self._reviews is None:
            return Access(503, "the cluster is not asked yet who may read this")
        return await self._reviews.review(token, verb, path)

    async def _elect(self) -> None:
        """Takes part until told to resign."""
        if self._lease is not None and not self._resigned:
            electing = self._electing = asyncio.ensure_future(self._lease.run())
            try:
                await asyncio.wait((electing,))
            finally:
                electing.cancel()
                await asyncio.wait((electing,))  # it gives the lead back
            if not electing.cancelled():
                electing.result()

    async def _look(self) -> None:
        """Says why we are not ready, or that something is not followed; again while it lasts, and when it is
        over."""
        assert self._cluster is not None
        since = said_at = 0.0
        while True:
            await asyncio.sleep(_LOOK_S)
            trouble, missing, now = self._cluster.trouble(), self._cluster.missing(), monotonic()
            self._metrics.cluster(len(trouble), None if self._lease is None else self._lease.is_leader)
            if not trouble and not missing:
                if said_at:
                    log.info("the cluster is followed, after %.0f s without", now - since)
                since = said_at = 0.0
                continue
            since = since or now
            if now - since < _PATIENCE_S or (said_at and now - said_at < _REMIND_S):
                continue
            said_at = now
            if missing:
                log.warning("not ready for %.0f s: %s", now - since, "; ".join(missing))
            else:
                words = "lists not followed for %.0f s: %d; routing goes on with what is known: %s"
                log.warning(words, now - since, len(trouble), trouble[0])
