"""The debug pages that say what the process itself does."""

from __future__ import annotations

import asyncio

from aiohttp import web

from epp.web import profiling
from epp.web.answers import error


class ProfilingPages:
    def __init__(self) -> None:
        self._profiling = False

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/debug/pprof/", self._page_pprof),
            web.get("/debug/pprof/profile", self._page_profile),
            web.get("/debug/pprof/threads", self._page_threads),
            web.get("/debug/pprof/tasks", self._page_tasks),
        ]

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
