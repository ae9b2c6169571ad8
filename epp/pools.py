"""Many pools in one process: which one a stream is for, and pools that come and go.

The gateway says it, by what clients cannot write: metadata of its gRPC call or of its filters
(`x-gateway-inference-pool`, `namespace/name`), else the Service under whose name it calls us, as the pool
names it. A request header of that name counts only where it is said that the gateway sets it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice

from epp.config.problems import ConfigError
from epp.config.sources import PoolConfigs
from epp.domain.errors import Answer, Reason, Refused, answer_of
from epp.domain.pool import POOL_GROUP, AppProtocol, PoolSpec, service_of
from epp.domain.request import Body, RequestHead, Scanned
from epp.domain.views import Abort, AnswerHead, Call, Ending, Report, Verdict
from epp.generation import Services
from epp.pool import Pool, open_pool

log = logging.getLogger("epp.pools")

POOL_HEADER = "x-gateway-inference-pool"
_SHOWN_CHARS = 200
_NEAR_AMONG = 500
"""Pools among which one of a similar name is looked for: 40 us each, and the event loop waits."""
_NEAR_S = 1.0
"""Between two such looks: a route to a pool that is gone may bring thousands of requests a second."""
_NEAR_KEPT = 100


class OnePool:
    """A PoolWorld with one pool, which is there before the cluster knows it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def pool_came(self, pool: PoolSpec) -> Pool:
        self._pool.serve(_spoken(pool))
        return self._pool

    def pool_changed(self, pool: PoolSpec) -> None:
        self._pool.serve(_spoken(pool))

    def pool_went(self, namespace: str, name: str) -> None:
        self._pool.set_endpoints(())


class Pools:
    """A Door and a PoolWorld."""

    def __init__(
        self, services: Services, configs: PoolConfigs, *, from_header: bool = False, strict: bool = False
    ) -> None:
        """`from_header`: a request header may name the pool. `strict`: nothing is guessed: no namespace, and
        not that the only pool is meant. Where namespaces are others' own, whoever makes a pool in his must
        not get the requests of one that has gone elsewhere."""
        self._strict = strict
        self._services = services
        self._configs = configs
        self._from_header = from_header
        self._by_key: dict[str, Pool] = {}
        self._specs: dict[str, PoolSpec] = {}
        self._by_name: dict[str, list[Pool]] = {}
        self._by_service: dict[str, list[Pool]] = {}
        """By `service.namespace` of the picker that the pool names."""
        self._near: dict[str, str] = {}
        """What was found for names that no pool has."""
        self._near_at = float("-inf")

    def __iter__(self) -> Iterator[Pool]:
        return iter(tuple(self._by_key.values()))

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def by_key(self) -> Mapping[str, Pool]:
        """By `namespace/name`."""
        return self._by_key

    # -- requests ------------------------------------------------------------------------------------------

    def open(self, head: RequestHead, abort: Abort | None = None) -> Call:
        named = head.pool or (head.headers.get(POOL_HEADER, "") if self._from_header else "")
        found = self._find(named, head.authority)
        if isinstance(found, Pool):
            return found.open(head, abort)
        return _Unknown(self._services, found, head.request_id)

    def open_answer(self, authority: str = "", pool: str = "") -> Call:
        found = self._find(pool, authority)
        return found.open_answer() if isinstance(found, Pool) else _Unknown(self._services, found, "")

    def _find(self, named: str, authority: str) -> Pool | str:
        """The pool, or why there is none."""
        if named:
            pool = self._by_key.get(named)
            if pool is not None:
                return pool
            called = self._by_name.get(named, ())
            if len(called) == 1 and not self._strict:
                return called[0]
            return self._unknown(named, len(called))
        if self._by_service and authority:
            called = self._by_service.get(service_of(authority), ())
            if len(called) == 1:
                return called[0]
        if len(self._by_key) == 1 and not self._strict:
            return next(iter(self._by_key.values()))
        if not self._by_key:
            return "the endpoint picker serves no pool"
        return (
            f"the gateway does not say which pool of {len(self._by_key)} the request is for: neither by "
            f"{POOL_HEADER} in its metadata nor by the name of a Service that one pool alone names"
        )

    def _unknown(self, named: str, called: int) -> str:
        shown = named[:_SHOWN_CHARS]
        if called:
            return f"pools that are called {shown!r}: {called}; a namespace has to be said, as namespace/name"
        near = self._near_to(shown)
        return f"there is no pool {shown!r}" + (f"; did the gateway mean {near!r}?" if near else "")

    def _near_to(self, named: str) -> str:
        found = self._near.get(named)
        now = self._services.clock()
        if found is not None or now - self._near_at < _NEAR_S:
            return found or ""
        self._near_at = now
        if len(self._near) >= _NEAR_KEPT:
            self._near.clear()
        found = next(iter(get_close_matches(named, islice(self._by_key, _NEAR_AMONG), 1)), "")
        self._near[named] = found
        return found

    # -- the cluster ---------------------------------------------------------------------------------------

    def pool_came(self, pool: PoolSpec) -> Pool:
        """Raises ConfigError, ValueError or OSError where not even the default can be put into force."""
        key = pool.key
        made = self._opened(pool)
        self._near.clear()
        self._by_key[key] = made
        self._by_name.setdefault(pool.name, []).append(made)
        self._specs[key] = pool
        self._index(pool, made)
        return made

    def _opened(self, pool: PoolSpec) -> Pool:
        configs, services, of = self._configs, self._services, (pool.namespace, pool.name)
        try:
            config = configs.of(*of)
            try:
                return open_pool(pool.key, config, services)
            except (ValueError, OSError) as error:
                return open_pool(pool.key, configs.stand_in(*of, error), services)
        except (ConfigError, ValueError, OSError):
            configs.forget(*of)
            raise

    def pool_changed(self, pool: PoolSpec) -> None:
        made = self._by_key[pool.key]
        self._unindex(self._specs[pool.key], made)
        self._specs[pool.key] = pool
        self._index(pool, made)

    def pool_went(self, namespace: str, name: str) -> None:
        key = f"{namespace}/{name}"
        made = self._by_key.pop(key)
        self._near.clear()
        self._unindex(self._specs.pop(key), made)
        _drop(self._by_name, name, made)
        self._configs.forget(namespace, name)
        made.close()

    def _index(self, spec: PoolSpec, pool: Pool) -> None:
        pool.serve(_spoken(spec))
        if spec.picker_service:
            service = f"{spec.picker_service}.{spec.namespace}"
            self._by_service.setdefault(service, []).append(pool)

    def _unindex(self, spec: PoolSpec, pool: Pool) -> None:
        _drop(self._by_service, f"{spec.picker_service}.{spec.namespace}", pool)


def _spoken(spec: PoolSpec) -> AppProtocol | None:
    """What the servers speak, where it is said: pods alone and v1alpha2 have no word for it."""
    return spec.app_protocol if spec.group == POOL_GROUP else None


def _drop(index: dict[str, list[Pool]], key: str, pool: Pool) -> None:
    held = index.get(key)
    if held is not None and pool in held:
        held.remove(pool)
        if not held:
            del index[key]


class _Unknown:
    """A Call for no pool."""

    __slots__ = ("_refused", "_request_id", "_services")

    def __init__(self, services: Services, why: str, request_id: str) -> None:
        self._services = services
        self._refused = Refused(Reason.POOL_NOT_FOUND, why)
        self._request_id = request_id

    def allow(self, subset: tuple[str, ...]) -> None:
        pass

    def refuse_early(self) -> Answer | None:
        return self.refuse(self._refused)

    def refuse(self, refused: Refused) -> Answer:
        metrics = self._services.metrics
        metrics.refused(refused)
        metrics.request("", "", "", None).error(refused.reason.canonical)
        self._services.refusals.record(
            refused, self._request_id, model="", priority=0, fairness_id="", waited_s=0.0
        )
        return answer_of(refused, self._request_id)

    def decide(
        self, body: Body, *, truncated: bool = False, scanned: Scanned | None = None
    ) -> Verdict | Awaitable[Verdict]:
        return self.refuse(self._refused)

    def answered(self, head: AnswerHead) -> Sequence[tuple[str, str]]:
        return ()

    def first_token(self, at: float) -> None:
        pass

    def end(self, ending: Ending, report: Report) -> None:
        self._services.metrics.ended(ending)
