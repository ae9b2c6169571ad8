"""`GET /v1/models` over all pools, on a port of its own to which gateways may send their clients.

Open to all who reach it, as engines' own lists are. However often lists are asked for, pools are looked at
once a second at most, and lists made anew only where something has changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, TypeAlias

import msgspec
from aiohttp import web

from epp.domain.errors import Reason, Refused, answer_of
from epp.domain.views import Clock
from epp.web.modellist import Model, Models, PoolModels, in_pool, list_models, names_of
from epp.web.site import Site
from epp.web.tls import ServerTls

REFRESH_S = 1.0
MAX_SHOWN = 200
"""Characters of a client's words that a refusal repeats."""
logger = logging.getLogger("epp.web.models")
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ModelsSource(Protocol):
    """Who serves the pools."""

    def models_of(self) -> Iterable[PoolModels]:
        """Every pool there is now."""


class ModelsServer:
    def __init__(
        self,
        host: str | None,
        port: int,
        source: ModelsSource,
        *,
        tls: ServerTls | None = None,
        failed: Callable[[str], None] = lambda where: None,
        clock: Clock = time.monotonic,
        started_at: float | None = None,
    ) -> None:
        """`port` 0: a free one. `failed` counts bugs of ours. `started_at`: the `created` of every model, in
        seconds since 1970; without it, now."""
        self._source = source
        self._tls = tls
        self._failed = failed
        self._clock = clock
        self._created = int(time.time() if started_at is None else started_at)
        self._listed_at = float("-inf")
        self._pools: frozenset[str] = frozenset()
        self._models: Mapping[str, Model] = {}
        self._pages: dict[str, bytes] = {}
        """Lists that were asked for, by pool."""
        self._seen: tuple[object, ...] = ()
        """What the lists were made of."""
        self._site = Site(host, port)

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        app = web.Application(middlewares=[self._guard])
        for prefix in ("", "/pools/{pool:.+}"):
            app.router.add_get(prefix + "/v1/models", self._list)
            app.router.add_get(prefix + "/v1/models/{model:.+}", self._one)
        await self._site.start(app, self._tls.context if self._tls else None)

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        return self._site.port

    async def stop(self) -> None:
        await self._site.stop()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every error as OpenAI's clients know it."""
        try:
            return await handler(request)
        except web.HTTPException as wrong:
            answer = _refusal(
                Reason.UNSUPPORTED_PATH, f"There is no {request.method} {request.path[:MAX_SHOWN]}."
            )
            answer.set_status(wrong.status)
            if allow := wrong.headers.get("Allow"):
                answer.headers["Allow"] = allow
            return answer
        except ConnectionError:
            raise  # the reader left
        except Exception:
            self._failed("models")
            logger.exception("the list of models failed")
            return _refusal(Reason.INTERNAL, "The endpoint picker failed; its log says why.")

    async def _list(self, request: web.Request) -> web.Response:
        pool = self._refreshed(request)
        if isinstance(pool, web.Response):
            return pool
        page = self._pages.get(pool)
        if page is None:
            models = in_pool(self._models, pool) if pool else self._models
            page = self._pages[pool] = _encode(Models(data=[*models.values()]))
        return web.Response(body=page, content_type="application/json")

    async def _one(self, request: web.Request) -> web.Response:
        pool = self._refreshed(request)
        if isinstance(pool, web.Response):
            return pool
        name = request.match_info["model"]
        model = self._models.get(name)
        if pool and model is not None:
            model = in_pool({name: model}, pool).get(name)
        if model is None:
            where = f" in the pool '{pool[:MAX_SHOWN]}'" if pool else ""
            text = f"The model '{name[:MAX_SHOWN]}' does not exist{where}."
            return _refusal(Reason.MODEL_NOT_FOUND, text, "model")
        return web.Response(body=_encode(model), content_type="application/json")

    def _refreshed(self, request: web.Request) -> str | web.Response:
        """The pool that is asked for, empty for all; or the answer that there is no such pool."""
        now = self._clock()
        if now - self._listed_at >= REFRESH_S:
            pools = tuple(self._source.models_of())
            seen = tuple((pool.pool, pool.snapshot.models, pool.rewrites.rewrites) for pool in pools)
            if seen != self._seen:
                self._models = list_models(pools, self._created)
                self._pools = frozenset(name for pool in pools for name in names_of(pool.pool))
                self._pages.clear()
                self._seen = seen
            self._listed_at = now
        pool = request.match_info.get("pool") or request.query.get("pool", "")
        if pool and pool not in self._pools:
            return _refusal(Reason.MODEL_NOT_FOUND, f"There is no pool '{pool[:MAX_SHOWN]}'.", "pool")
        return pool


_encode = msgspec.json.Encoder().encode


def _refusal(reason: Reason, text: str, param: str | None = None) -> web.Response:
    answer = answer_of(Refused(reason, text, param=param))
    return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))
