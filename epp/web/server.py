"""The HTTP listener beside an ext_proc service: metrics, health, and the debug pages that it is given."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from aiohttp import web

from epp.telemetry.metrics import Metrics
from epp.telemetry.reasons import DecisionLog
from epp.telemetry.refusals import RefusalLog
from epp.telemetry.render import OPENMETRICS, TEXT
from epp.web.answers import accepts_gzip, error
from epp.web.auth import Reviewer, TokenFile, bearer
from epp.web.debug import DebugPages
from epp.web.pools import PoolPages
from epp.web.pprof import ProfilingPages
from epp.web.site import Site
from epp.web.tls import ServerTls

logger = logging.getLogger("epp.web")

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
SCRAPES_MAX = 4
"""Metrics pages rendered at once; further ones wait."""
SCRAPE_S = 60.0
"""A reader that takes longer, waiting included, is cut off."""
_GZIP = 31
"""zlib's window bits for a gzip header around the largest window."""
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="metrics"'}
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class WebOptions:
    """As the flags have them."""

    host: str | None = None
    """None: every interface."""
    port: int = 9090
    """0: a free one."""
    auth: bool = True
    """--metrics-endpoint-auth"""
    token_file: Path | None = None
    cert_dir: Path | None = None
    client_ca_file: Path | None = None
    pprof: bool = True


class MetricsPage(Protocol):
    """What /metrics shows."""

    def render(self, openmetrics: bool = False) -> Iterable[str]:
        """The whole page in pieces; between two of them the event loop may do other work."""

    def internal_error(self, where: str) -> None:
        """A bug of ours; its traceback is logged."""


class Listener:
    """`ready` answers what is missing until we are ready; nothing means ready. `notices` is for the start."""

    def __init__(
        self,
        options: WebOptions,
        *,
        metrics: MetricsPage,
        ready: Callable[[], Sequence[str]],
        pages: Sequence[web.RouteDef] = (),
        reviewer: Reviewer | None = None,
    ) -> None:
        """`reviewer` says whose tokens are good, where no file does. Raises ValueError for options that do
        not go together, OSError for certificates that fail."""
        if options.client_ca_file is not None and options.cert_dir is None:
            raise ValueError(
                "--metrics-client-ca-file needs --metrics-cert-dir: client certificates need TLS"
            )
        self._options = options
        self._metrics = metrics
        self._ready = ready
        self._pages = (*pages, *(ProfilingPages().routes() if options.pprof else ()))
        self._token = TokenFile(options.token_file) if options.auth and options.token_file else None
        self._reviewer = reviewer if options.auth and self._token is None else None
        self._tls = ServerTls(options.cert_dir, options.client_ca_file) if options.cert_dir else None
        self._scrapes = asyncio.Semaphore(SCRAPES_MAX)
        self._site = Site(options.host, options.port)
        self.notices: tuple[str, ...] = ()
        checked = self._token is not None or self._reviewer is not None or options.client_ca_file is not None
        if options.auth and not checked:
            self.notices = (
                "metrics and debug pages are open to all who reach the port: there is no cluster to ask "
                "and no --metrics-token-file; --metrics-endpoint-auth=false says that it is meant",
            )

    # -- running -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/metrics", self._page_metrics),
                web.get("/healthz", self._page_health),
                web.get("/readyz", self._page_ready),
                *self._pages,
            ]
        )
        await self._site.start(app, self._tls.context if self._tls else None)

    @property
    def listening(self) -> bool:
        return self._site.listening

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        return self._site.port

    async def stop(self) -> None:
        await self._site.stop()

    # -- who may -----------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Auth before anything is looked up; every error, and everything unexpected, as JSON."""
        try:
            if request.path not in OPEN_PATHS:
                refusal = await self._refusal(request)
                if refusal is not None:
                    return refusal
            return await handler(request)
        except web.HTTPException as wrong:
            allow = {name: value for name, value in wrong.headers.items() if name == "Allow"}
            return error(wrong.status, f"{wrong.reason}: {request.method} {request.path}", allow)
        except (ConnectionError, TimeoutError):
            raise  # the reader left, or was too slow
        except Exception:
            self._metrics.internal_error("web")
            logger.exception("the page %s failed", request.path)
            return error(500, "internal error; the log says more")

    async def _refusal(self, request: web.Request) -> web.Response | None:
        if self._options.client_ca_file is not None:
            transport = request.transport
            if transport is None or not transport.get_extra_info("peercert"):
                return error(403, "a client certificate is needed")
        if self._token is not None and not self._token.allows(request.headers.get("Authorization")):
            return error(401, "a bearer token is needed", _CHALLENGE)
        if self._reviewer is not None:
            token = bearer(request.headers.get("Authorization"))
            access = await self._reviewer.review(token, request.method.lower(), request.path)
            if access.status != 200:
                return error(access.status, access.why, _CHALLENGE if access.status == 401 else None)
        return None

    # -- pages -------------------------------------------------------------------------------------------

    async def _page_metrics(self, request: web.Request) -> web.StreamResponse:
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        zipped = accepts_gzip(request.headers.get("Accept-Encoding", ""))
        headers = {"Content-Type": OPENMETRICS if openmetrics else TEXT, "Vary": "Accept, Accept-Encoding"}
        if zipped:
            headers["Content-Encoding"] = "gzip"
        response = web.StreamResponse(headers=headers)
        # Level 1: a third of the default's time, and a few percent more bytes on lines that are so alike.
        packer = zlib.compressobj(1, wbits=_GZIP) if zipped else None
        async with asyncio.timeout(SCRAPE_S), self._scrapes:
            await response.prepare(request)
            try:
                for piece in self._metrics.render(openmetrics):
                    data = piece.encode("utf-8", "replace")
                    if packer:
                        data = packer.compress(data)
                    if data:
                        await response.write(data)
                    await asyncio.sleep(0)  # lets requests through between two pieces
                if packer:
                    await response.write(packer.flush())
                await response.write_eof()
            except ConnectionError:
                pass  # the reader has left
            except Exception:
                # The status has gone out, so only a broken connection can tell the reader.
                self._metrics.internal_error("web")
                logger.exception("the metrics page failed")
                if request.transport is not None:
                    request.transport.close()
        return response

    async def _page_health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _page_ready(self, request: web.Request) -> web.Response:
        missing = list(self._ready())
        said = {"status": "not ready" if missing else "ready", "missing": missing}
        return web.json_response(said, status=503 if missing else 200)


class WebServer(Listener):
    """The picker's: with what it decided, refused and keeps waiting."""

    def __init__(
        self,
        options: WebOptions,
        *,
        metrics: Metrics,
        ready: Callable[[], Sequence[str]],
        decisions: DecisionLog,
        refusals: RefusalLog,
        pools: PoolPages,
        reviewer: Reviewer | None = None,
    ) -> None:
        """As the listener."""
        pages = DebugPages(decisions, refusals, pools).routes()
        super().__init__(options, metrics=metrics, ready=ready, pages=pages, reviewer=reviewer)
