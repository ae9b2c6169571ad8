"""The debug pages: plugin state, decisions with their reasons, what the process is doing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from epp.telemetry.reasons import DecisionLog, describe, headline
from epp.telemetry.reasons_table import table
from epp.web import profiling
from epp.web.answers import as_json, error, printable, wants_text, whole

RECENT = 50
RECENT_MAX = 1000
TOP_MAX = 10_000


class DebugPages:
    """`pprof` False leaves the profiling pages out."""

    def __init__(
        self, plugins_state: Callable[[], Mapping[str, Any]], decisions: DecisionLog, *, pprof: bool
    ) -> None:
        self._plugins_state = plugins_state
        self._decisions = decisions
        self._pprof = pprof
        self._profiling = False

    def routes(self) -> list[web.RouteDef]:
        routes = [
            web.get("/debug/plugins/state", self._page_plugins),
            web.get("/debug/decisions", self._page_decisions),
            web.get("/debug/decisions/{request_id:.+}", self._page_decision),
        ]
        if self._pprof:
            routes += [
                web.get("/debug/pprof/", self._page_pprof),
                web.get("/debug/pprof/profile", self._page_profile),
                web.get("/debug/pprof/threads", self._page_threads),
                web.get("/debug/pprof/tasks", self._page_tasks),
            ]
        return routes

    async def _page_plugins(self, request: web.Request) -> web.Response:
        return as_json(self._plugins_state())

    async def _page_decisions(self, request: web.Request) -> web.Response:
        recent = self._decisions.recent(whole(request, "n", RECENT, RECENT_MAX))
        if wants_text(request):
            return web.Response(text="".join(f"{printable(d.request_id)} {headline(d)}\n" for d in recent))
        return as_json(
            {
                "held": len(self._decisions),
                "held_bytes": self._decisions.held_bytes,
                "decisions": [
                    {
                        "request_id": decision.request_id,
                        "at_s": decision.at,
                        "model": decision.model,
                        "destination": decision.destination,
                        "reasons": headline(decision),
                    }
                    for decision in recent
                ],
            }
        )

    async def _page_decision(self, request: web.Request) -> web.Response:
        decision = self._decisions.find(request.match_info["request_id"])
        if decision is None:
            return error(404, "no decision of that request id is held (any more)")
        top = whole(request, "top", 20, TOP_MAX)
        if wants_text(request):
            return web.Response(text=table(decision, top))
        return as_json(describe(decision, top))

    async def _page_pprof(self, request: web.Request) -> web.Response:
        return web.Response(
            text="profile?seconds=N  sampled stacks of every thread, collapsed, for flame graph tools\n"
            "threads            the stack of every thread now\n"
            "tasks              how many asyncio tasks wait where\n"
        )

    async def _page_profile(self, request: web.Request) -> web.Response:
        try:
            seconds = float(request.query.get("seconds", "5"))
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= profiling.SECONDS_MAX:
            return error(400, f"seconds must be above 0 and at most {profiling.SECONDS_MAX:g}")
        if self._profiling:
            return error(409, "a profile is being taken already")
        self._profiling = True
        try:
            return web.Response(text=await asyncio.to_thread(profiling.sample, seconds))
        finally:
            self._profiling = False

    async def _page_threads(self, request: web.Request) -> web.Response:
        return web.Response(text=profiling.threads())

    async def _page_tasks(self, request: web.Request) -> web.Response:
        return web.Response(text=profiling.tasks())
