"""The debug pages of many pools: lists without `?pool=`, one with it, and a hint for names that are wrong."""

from __future__ import annotations

from typing import Any

import aiohttp

from epp.domain.errors import Reason, Refused
from epp.web.pools import Configured
from tests.unit.telemetry.decisions import decision
from tests.unit.web.test_server import Picker, Shown, ShownPool, json_of, serving, status

SEARCH, CHAT = "apps/search", "apps/chat"


def picker() -> Picker:
    """Two pools; one is not ready, and the newest configuration of the other was refused."""
    made = Picker()
    search = ShownPool(lambda: {"prefix": {"blocks": 3}})
    search.config = Configured("search.yaml", 4, error="line 3: no such plugin")
    chat = ShownPool(dict, missing=["the pool's endpoints are not known yet"])
    made.pools = Shown({SEARCH: search, CHAT: chat}, many=True)
    return made


async def text_of(client: aiohttp.ClientSession, path: str) -> str:
    async with client.get(path, headers={"Accept": "text/plain"}) as answer:
        assert answer.content_type == "text/plain"
        return await answer.text()


async def test_all_pools_in_a_line_each() -> None:
    async with serving(picker()) as client:
        said = await json_of(client, "/debug/pools")
        text = await text_of(client, "/debug/pools")
    assert (said["ready"], said["not_ready"]) == (1, 1)
    search: dict[str, Any] = said["pools"][SEARCH]
    assert search["endpoints"] == {"all": 3, "fresh": 1, "stale": 1, "unscraped": 1, "avoided": 0}
    assert search["config"] == {"source": "search.yaml", "generation": 4, "error": "line 3: no such plugin"}
    assert (search["saturation"], search["waiting"]) == (0.97, None)
    assert said["pools"][CHAT]["missing"] == ["the pool's endpoints are not known yet"]
    head, first, second = text.splitlines()
    assert head.split()[:2] == ["pool", "endpoints"]
    assert first.split() == [
        SEARCH, "3", "1", "1", "1", "0", "0.97", "-", "-", "search.yaml_#4", "(newest", "refused)", "-",
    ]  # fmt: skip
    assert second.endswith("the pool's endpoints are not known yet")


async def test_one_pool_with_its_endpoints() -> None:
    async with serving(picker()) as client:
        said = await json_of(client, f"/debug/pools?pool={SEARCH}")
        text = await text_of(client, f"/debug/pools?pool={SEARCH}")
    assert said["pool"] == SEARCH
    assert [one["metrics_age_s"] for one in said["servers"]] == [0.1, 2.0, None]
    assert said["servers"][1]["waiting"] == 2
    assert said["omitted"] == 0
    assert "default/pod-2" in text
    assert "never" in text


async def test_pages_of_one_of_many_pools() -> None:
    async with serving(picker()) as client:
        assert await json_of(client, f"/debug/plugins/state?pool={SEARCH}") == {"prefix": {"blocks": 3}}
        assert (await json_of(client, "/debug/plugins/state"))["pools"] == [SEARCH, CHAT]
        assert (await json_of(client, f"/debug/flowcontrol?pool={CHAT}"))["enabled"] is False
        said = await json_of(client, "/debug/flowcontrol")
        assert said["pools"][CHAT] == {"saturation": 0.97, "waiting": None, "in_flight": None}
        assert SEARCH in await text_of(client, "/debug/flowcontrol")


async def test_a_pool_that_is_not_there_is_404_with_what_is_near() -> None:
    async with serving(picker()) as client:
        for page in ("pools", "plugins/state", "flowcontrol"):
            said = await json_of(client, f"/debug/{page}?pool=apps/serch")
            assert said["error"]["code"] == 404
            assert "near it: apps/search" in said["error"]["message"]
        said = await json_of(client, "/debug/pools?pool=%0A%C3%A9" + "x" * 2000)
        assert "/debug/pools lists all 2" in said["error"]["message"]


async def test_decisions_and_refusals_say_their_pool_and_are_filtered_by_it() -> None:
    made = picker()
    for pool, request_id in ((SEARCH, "s-1"), (CHAT, "c-1"), (SEARCH, "s-2")):
        made.decisions.of(pool).record(decision(3, request_id=request_id))
        made.refusals.of(pool).record(Refused(Reason.SHED, "full"), f"refused-{request_id}")
    async with serving(made) as client:
        every = await json_of(client, "/debug/decisions")
        assert [(one["request_id"], one["pool"]) for one in every["decisions"]] == [
            ("s-2", SEARCH), ("c-1", CHAT), ("s-1", SEARCH),
        ]  # fmt: skip
        mine = await json_of(client, f"/debug/decisions?pool={SEARCH}&n=1")
        assert [one["request_id"] for one in mine["decisions"]] == ["s-2"]
        assert (await json_of(client, "/debug/decisions/c-1"))["pool"] == CHAT
        assert "pool: apps/chat" in await text_of(client, "/debug/decisions/c-1")
        assert "pool=apps/chat" in await text_of(client, "/debug/decisions")
        refusals = await json_of(client, f"/debug/refusals?pool={CHAT}")
        assert [(one["request_id"], one["pool"]) for one in refusals["refusals"]] == [("refused-c-1", CHAT)]
        last = (await json_of(client, f"/debug/flowcontrol?pool={CHAT}"))["last_refusals"]
        assert [one["request_id"] for one in last] == ["refused-c-1"]
        assert "pool apps/chat" in await text_of(client, "/debug/flowcontrol")


async def test_a_single_pool_is_shown_without_being_named() -> None:
    made = Picker()
    made.decisions.record(decision(3, request_id="one"))
    async with serving(made) as client:
        assert list((await json_of(client, "/debug/pools"))["pools"]) == ["pool"]
        assert await json_of(client, "/debug/plugins/state") == {"prefix": {"blocks": 3}}
        assert await json_of(client, "/debug/plugins/state?pool=pool") == {"prefix": {"blocks": 3}}
        assert await status(client, "/debug/plugins/state?pool=other") == 404
        assert "pool" not in (await json_of(client, "/debug/decisions/one"))
        assert "pool" not in (await json_of(client, "/debug/decisions?pool=pool"))["decisions"][0]
