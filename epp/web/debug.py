"""The picker's debug pages: pools, plugin state, decisions and refusals with their reasons, queues."""

from __future__ import annotations

from aiohttp import web

from epp.telemetry.reasons import DecisionLog, describe, headline
from epp.telemetry.reasons_table import table
from epp.telemetry.refusals import RefusalLog
from epp.web.answers import as_json, error, printable, wants_text, whole
from epp.web.flow import text
from epp.web.pools import PoolList, PoolPages, asked_pool

RECENT = 50
RECENT_MAX = 1000
REFUSALS = 10
"""On the page of the queues."""
TOP_MAX = 10_000


class DebugPages:
    """With many pools `?pool=` says which; without it a page shows them together, or a line of each."""

    def __init__(self, decisions: DecisionLog, refusals: RefusalLog, pools: PoolPages) -> None:
        self._decisions = decisions
        self._refusals = refusals
        self._pools = pools
        self._list = PoolList(pools)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/debug/pools", self._list.page),
            web.get("/debug/plugins/state", self._page_plugins),
            web.get("/debug/decisions", self._page_decisions),
            web.get("/debug/decisions/{request_id:.+}", self._page_decision),
            web.get("/debug/refusals", self._page_refusals),
            web.get("/debug/flowcontrol", self._page_flow),
        ]

    async def _page_plugins(self, request: web.Request) -> web.Response:
        pool = asked_pool(request, self._pools)
        if pool is None:
            return as_json({"pools": list(self._pools.by_label()), "one_of_them": "?pool=NAMESPACE/NAME"})
        return as_json(pool.plugins_state())

    async def _page_decisions(self, request: web.Request) -> web.Response:
        n, pool = whole(request, "n", RECENT, RECENT_MAX), self._named(request)
        recent = self._decisions.recent_of(n, pool)
        if wants_text(request):
            lines = (
                f"{printable(d.request_id)} {f'pool={printable(pool)} ' if pool else ''}{headline(d)}\n"
                for d, pool in recent
            )
            return web.Response(text="".join(lines))
        return as_json(
            {
                "held": len(self._decisions),
                "held_bytes": self._decisions.held_bytes,
                "decisions": [
                    {
                        "request_id": decision.request_id,
                        **({"pool": pool} if pool else {}),
                        "at_s": decision.at,
                        "model": decision.model,
                        "destination": decision.destination,
                        "reasons": headline(decision),
                    }
                    for decision, pool in recent
                ],
            }
        )

    async def _page_decision(self, request: web.Request) -> web.Response:
        request_id = request.match_info["request_id"]
        decision, pool = self._decisions.found(request_id) or (None, "")
        refusal = self._refusals.find(request_id)
        if decision is None and refusal is None:
            return error(404, "no decision and no refusal of that request id is held (any more)")
        top = whole(request, "top", 20, TOP_MAX)
        if wants_text(request):
            said = "" if refusal is None else f"refused: {refusal.line}\n"
            said += f"pool: {printable(pool)}\n" if pool else ""
            return web.Response(text=said + ("" if decision is None else table(decision, top)))
        shown = {"request_id": request_id} if decision is None else describe(decision, top)
        if pool:
            shown["pool"] = pool
        return as_json(shown if refusal is None else {**shown, "refused": refusal.described()})

    async def _page_refusals(self, request: web.Request) -> web.Response:
        recent = self._refusals.recent(whole(request, "n", RECENT, RECENT_MAX), self._named(request))
        if wants_text(request):
            return web.Response(text="".join(f"{printable(r.request_id)} {r.line}\n" for r in recent))
        return as_json({"held": len(self._refusals), "refusals": [one.described() for one in recent]})

    async def _page_flow(self, request: web.Request) -> web.Response:
        pool = asked_pool(request, self._pools)
        last = self._refusals.recent(REFUSALS, self._named(request))
        if pool is None:
            return await self._list.queues(last, text=wants_text(request))
        said = pool.flow.describe()
        if wants_text(request):
            return web.Response(text=text(said, last))
        return as_json({**said, "last_refusals": [one.described() for one in last]})

    def _named(self, request: web.Request) -> str:
        """The pool, where there may be others; pools that are gone have left decisions."""
        return request.query.get("pool", "") if self._pools.many else ""
