"""The picker's debug pages: plugin state, decisions and refusals with their reasons, queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from epp.telemetry.reasons import DecisionLog, describe, headline
from epp.telemetry.reasons_table import table
from epp.telemetry.refusals import RefusalLog
from epp.web.answers import as_json, error, printable, wants_text, whole
from epp.web.flow import FlowPage, text

RECENT = 50
RECENT_MAX = 1000
REFUSALS = 10
"""On the page of the queues."""
TOP_MAX = 10_000


class DebugPages:
    def __init__(
        self,
        plugins_state: Callable[[], Mapping[str, Any]],
        decisions: DecisionLog,
        refusals: RefusalLog,
        flow: FlowPage,
    ) -> None:
        self._plugins_state = plugins_state
        self._decisions = decisions
        self._refusals = refusals
        self._flow = flow

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/debug/plugins/state", self._page_plugins),
            web.get("/debug/decisions", self._page_decisions),
            web.get("/debug/decisions/{request_id:.+}", self._page_decision),
            web.get("/debug/refusals", self._page_refusals),
            web.get("/debug/flowcontrol", self._page_flow),
        ]

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
        request_id = request.match_info["request_id"]
        decision, refusal = self._decisions.find(request_id), self._refusals.find(request_id)
        if decision is None and refusal is None:
            return error(404, "no decision and no refusal of that request id is held (any more)")
        top = whole(request, "top", 20, TOP_MAX)
        if wants_text(request):
            said = "" if refusal is None else f"refused: {refusal.line}\n"
            return web.Response(text=said + ("" if decision is None else table(decision, top)))
        shown = {"request_id": request_id} if decision is None else describe(decision, top)
        return as_json(shown if refusal is None else {**shown, "refused": refusal.described()})

    async def _page_refusals(self, request: web.Request) -> web.Response:
        recent = self._refusals.recent(whole(request, "n", RECENT, RECENT_MAX))
        if wants_text(request):
            return web.Response(text="".join(f"{printable(r.request_id)} {r.line}\n" for r in recent))
        return as_json({"held": len(self._refusals), "refusals": [one.described() for one in recent]})

    async def _page_flow(self, request: web.Request) -> web.Response:
        said, last = self._flow.describe(), self._refusals.recent(REFUSALS)
        if wants_text(request):
            return web.Response(text=text(said, last))
        return as_json({**said, "last_refusals": [one.described() for one in last]})
