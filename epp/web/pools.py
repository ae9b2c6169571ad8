"""What the debug pages show of pools, and the page of all of them: how full each is, and why not ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from aiohttp import web

from epp.domain.snapshot import NEVER, Snapshot
from epp.telemetry.refusals import Refusal
from epp.web.answers import as_json, grid, printable, wants_text
from epp.web.flow import FlowPage, last_lines

AT_ONCE = 8
"""Pools that are described before requests may go on."""
_ENDPOINTS = 200
"""On the page of one pool."""
_NAME_CHARS = 512
_NEAR_AMONG = 500
"""Pools among which one of a similar name is looked for: 40 us each."""
_COUNTS = ("all", "fresh", "stale", "unscraped", "avoided")


class Configured(NamedTuple):
    """Which configuration is in force."""

    source: str
    generation: int
    error: str = ""
    """Why the newest one is not."""


class PoolPage(Protocol):
    """One pool. Filled by the composition root."""

    @property
    def snapshot(self) -> Snapshot: ...

    @property
    def flow(self) -> FlowPage: ...

    @property
    def config(self) -> Configured: ...

    def plugins_state(self) -> Mapping[str, Any]: ...

    def missing(self) -> Sequence[str]:
        """Why it is not ready; nothing where it is."""


class PoolPages(Protocol):
    """All of them."""

    @property
    def many(self) -> bool:
        """False: there is always one and the same, and pages need not be told which."""

    def by_label(self) -> Mapping[str, PoolPage]:
        """By the name that metrics show."""


def asked_pool(request: web.Request, pools: PoolPages) -> PoolPage | None:
    """That of `?pool=`; without it the only one, or None where there may be many. 404 for no such pool."""
    label = request.query.get("pool", "")
    held = pools.by_label()
    if not label:
        return None if pools.many else next(iter(held.values()))
    page = held.get(label)
    if page is None:
        near = get_close_matches(label[:_NAME_CHARS], islice(held, _NEAR_AMONG), 3)
        hint = f"; near it: {', '.join(near)}" if near else f"; /debug/pools lists all {len(held)}"
        raise web.HTTPNotFound(reason=f"no pool {printable(label[:_NAME_CHARS])!r}{hint}")
    return page


class PoolList:
    """/debug/pools"""

    def __init__(self, pools: PoolPages) -> None:
        self._pools = pools

    async def page(self, request: web.Request) -> web.Response:
        one = asked_pool(request, self._pools) if "pool" in request.query else None
        if one is not None:
            return _whole(request.query["pool"], one, text=wants_text(request))
        described = await self._each(describe)
        if wants_text(request):
            return web.Response(text=_table(described))
        ready = sum(not said["missing"] for said in described.values())
        return as_json({"pools": described, "ready": ready, "not_ready": len(described) - ready})

    async def queues(self, refusals: Sequence[Refusal], *, text: bool) -> web.Response:
        """/debug/flowcontrol of all of them."""
        described = await self._each(lambda pool: pool.flow.summary())
        if not text:
            last = [one.described() for one in refusals]
            return as_json({"pools": described, "last_refusals": last})
        heads = ("pool", "saturation", "waiting", "in flight")
        rows = [(printable(label), *_fullness(said)) for label, said in described.items()]
        return web.Response(text="\n".join([*grid([heads, *rows]), *last_lines(refusals)]) + "\n")

    async def _each(self, of: Callable[[PoolPage], dict[str, Any]]) -> dict[str, dict[str, Any]]:
        described: dict[str, dict[str, Any]] = {}
        for number, (label, pool) in enumerate(tuple(self._pools.by_label().items()), 1):
            described[label] = of(pool)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        return described


def describe(pool: PoolPage) -> dict[str, Any]:
    """JSON-ready, in one line of a table."""
    snapshot, config = pool.snapshot, pool.config
    now = pool.flow.clock()
    fresh = snapshot.fresh(now)
    never = snapshot.scraped_at == NEVER
    return {
        "endpoints": {
            "all": len(snapshot),
            "fresh": int(np.count_nonzero(fresh)),
            "stale": int(np.count_nonzero(~fresh & ~never)),
            "unscraped": int(np.count_nonzero(never)),
            "avoided": int(np.count_nonzero(~snapshot.available)),
        },
        **pool.flow.summary(),
        "config": {"source": config.source, "generation": config.generation, "error": config.error or None},
        "missing": list(pool.missing()),
    }


def _whole(label: str, pool: PoolPage, *, text: bool) -> web.Response:
    said, snapshot, now = describe(pool), pool.snapshot, pool.flow.clock()
    rows = [
        {
            "endpoint": endpoint.key,
            "address": endpoint.authority,
            "waiting": float(snapshot.waiting[row]),
            "running": float(snapshot.running[row]),
            "kv_used": round(float(snapshot.kv_used[row]), 4),
            "metrics_age_s": None if at == NEVER else round(now - at, 3),
            "avoided": not snapshot.available[row],
        }
        for row, (endpoint, at) in enumerate(
            zip(snapshot.endpoints[:_ENDPOINTS], snapshot.scraped_at.tolist(), strict=False)
        )
    ]
    if not text:
        return as_json({"pool": label, **said, "servers": rows, "omitted": len(snapshot) - len(rows)})
    heads = ("endpoint", "address", "waiting", "running", "kv used", "age", "avoided")
    lines = [
        (
            printable(str(row["endpoint"])), str(row["address"]), f"{row['waiting']:g}",
            f"{row['running']:g}", f"{row['kv_used']:g}",
            "never" if row["metrics_age_s"] is None else f"{row['metrics_age_s']:g} s",
            "yes" if row["avoided"] else "no",
        )
        for row in rows
    ]  # fmt: skip
    more = len(snapshot) - len(rows)
    tail = f"... and {more} more\n" if more else ""
    return web.Response(text=_table({label: said}) + "\n" + "\n".join(grid([heads, *lines])) + "\n" + tail)


def _fullness(said: Mapping[str, Any]) -> tuple[str, str, str]:
    waiting, in_flight = ("-" if said[name] is None else str(said[name]) for name in ("waiting", "in_flight"))
    return f"{said['saturation']:g}", waiting, in_flight


def _table(described: Mapping[str, Mapping[str, Any]]) -> str:
    heads = ("pool", "endpoints", "fresh", "stale", "unscraped", "avoided", "saturation", "waiting",
             "in flight", "config", "not ready because")  # fmt: skip
    rows = []
    for label, said in described.items():
        ends, config = said["endpoints"], said["config"]
        generation = f"{config['source']} #{config['generation']}"
        rows.append(
            (
                printable(label), *(str(ends[name]) for name in _COUNTS),
                *_fullness(said),
                printable(generation.replace(" ", "_")) + (" (newest refused)" if config["error"] else ""),
                "; ".join(said["missing"]) or "-",
            )
        )  # fmt: skip
    return "\n".join(grid([heads, *rows])) + "\n"
