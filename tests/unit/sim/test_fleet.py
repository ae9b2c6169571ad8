"""Many servers in one process: faults on command, deaths, the endpoints file."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from epp.sim.faults import Faults, changed, parse
from epp.sim.fleet import Fleet
from epp.sim.server import Settings
from tests.unit.sim.conftest import StartFleet, url

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "ignore_eos": True}


async def set_faults(http: aiohttp.ClientSession, fleet: Fleet, **update: Any) -> dict[str, Any]:
    async with http.post(url(fleet, "/sim/faults"), json=update) as answer:
        assert answer.status == 200, await answer.text()
        state: dict[str, Any] = await answer.json()
        return state


async def asked(http: aiohttp.ClientSession, fleet: Fleet, engine: int = 0) -> int:
    async with http.post(url(fleet, CHAT, engine), json=BODY) as answer:
        await answer.read()
        return answer.status


async def test_errors(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start(2)
    await set_faults(http, fleet, engine="sim-1", error_rate=1.0)
    assert [await asked(http, fleet, i) for i in range(2)] == [200, 500]
    await set_faults(http, fleet, engine="*", error_rate=0.5)
    seen = {await asked(http, fleet) for _ in range(40)}
    assert seen == {200, 500}


async def test_a_hanging_engine_never_answers(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    await set_faults(http, fleet, hang_rate=1.0, stall_metrics=True)
    for answer in (http.post(url(fleet, CHAT), json=BODY), http.get(url(fleet, "/metrics"))):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(answer, 0.05)
    await set_faults(http, fleet, hang_rate=0, stall_metrics=False)
    assert await asked(http, fleet) == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_dropped_answer(start: StartFleet, http: aiohttp.ClientSession, stream: bool) -> None:
    fleet = await start()
    await set_faults(http, fleet, drop_rate=1.0, drop_after=2)
    with pytest.raises(aiohttp.ClientError):
        async with http.post(url(fleet, CHAT), json=BODY | {"stream": stream}) as answer:
            await answer.read()
    engine = fleet.listeners[0].server.engine
    assert (engine.unfinished, engine.kv.used) == (0, 0)
    async with http.post(url(fleet, CHAT), json=BODY | {"stream": stream, "max_tokens": 2}) as answer:
        await answer.read()  # too short to be dropped


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stalled_answer_keeps_its_connection(
    start: StartFleet, http: aiohttp.ClientSession, stream: bool
) -> None:
    fleet = await start()
    await set_faults(http, fleet, stall_rate=1.0, drop_after=2)
    engine = fleet.listeners[0].server.engine
    if not stream:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(http.post(url(fleet, CHAT), json=BODY), 0.1)
        return
    async with http.post(url(fleet, CHAT), json=BODY | {"stream": True}) as answer:
        seen = b""
        while seen.count(b'"content":') < 3:  # the role's, then two tokens
            seen += await answer.content.readany()
        while engine.unfinished:
            await asyncio.sleep(0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(answer.content.readany(), 0.05)


async def test_slow_is_the_engines(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start(2)
    await set_faults(http, fleet, engine="sim-1", slow=2.5)
    assert [x.server.engine.slow for x in fleet.listeners] == [1.0, 2.5]


async def test_lies_in_metrics(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    await set_faults(http, fleet, lies={"kv": "nan", "waiting": -3, "running": "inf"})

    async def shown() -> list[float]:
        async with http.get(url(fleet, "/metrics")) as answer:
            samples = {
                s.name: s.value
                for family in text_string_to_metric_families(await answer.text())
                for s in family.samples
            }
        return [samples["vllm:" + name] for name in ("kv_cache_usage_perc", "num_requests_waiting")]

    kv, waiting = await shown()
    assert math.isnan(kv)
    assert waiting == -3
    await set_faults(http, fleet, lies={})
    assert await shown() == [0, 0]


async def test_a_dead_engine_comes_back_empty(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start(2)
    long = BODY | {"stream": True, "max_tokens": 50_000}
    async with http.post(url(fleet, CHAT, 1), json=long) as answer:
        await answer.content.readany()
        await set_faults(http, fleet, engine="sim-1", dead=True)
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
    with pytest.raises(aiohttp.ClientConnectorError):
        await asked(http, fleet, 1)
    assert await asked(http, fleet, 0) == 200
    port = fleet.listeners[1].server.port
    await set_faults(http, fleet, engine="sim-1", dead=False)
    while not fleet.listeners[1].alive:
        await asyncio.sleep(0)
    assert fleet.listeners[1].server.port == port
    assert fleet.listeners[1].server.engine.kv.cached == 0
    assert await asked(http, fleet, 1) == 200


async def test_an_engine_may_come_back_by_itself(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start()
    listener = fleet.listeners[0]
    await set_faults(http, fleet, dead=True, dead_for_s=0.05)
    while listener.alive:
        await asyncio.sleep(0)
    while not listener.alive:
        await asyncio.sleep(0.01)
    assert not listener.server.faults.dead
    assert await asked(http, fleet) == 200


async def test_an_engine_whose_port_is_taken_stays_dead(
    start: StartFleet, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = await start(2)
    listener = fleet.listeners[1]
    await set_faults(http, fleet, engine="sim-1", dead=True)
    while listener.alive:
        await asyncio.sleep(0)
    squatter = await asyncio.start_server(lambda r, w: None, "127.0.0.1", listener.server.port)
    await listener.revive()
    assert not listener.alive
    assert "sim-1 stays dead" in caplog.text
    squatter.close()
    await squatter.wait_closed()
    await listener.revive()
    assert await asked(http, fleet, 1) == 200


async def test_the_admin_port_outlives_them_all(start: StartFleet, http: aiohttp.ClientSession) -> None:
    fleet = await start(2)
    admin = f"http://127.0.0.1:{await fleet.open_admin(0)}"
    async with http.post(admin + "/sim/faults", json={"engine": "*", "dead": True}) as answer:
        assert answer.status == 200
    while any(x.alive for x in fleet.listeners):
        await asyncio.sleep(0)
    async with http.get(admin + "/sim/engines") as answer:
        state = await answer.json()
    assert [state[name]["alive"] for name in ("sim-0", "sim-1")] == [False, False]
    async with http.get(admin + "/v1/models") as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"engine": "nobody"}, "sim-0"),
        ({"engine": None, "speed": 1}, "speed"),
        ({"slow": 0}, "slow"),
        ({"error_rate": 2}, "error_rate"),
        ({"drop_after": 0}, "drop_after"),
        ({"lies": {"blocks": 1}}, "blocks"),
        ({"lies": {"kv": "much"}}, "much"),
        ([1], "object"),
    ],
)
async def test_bad_faults_change_nothing(
    start: StartFleet, http: aiohttp.ClientSession, update: Any, words: str
) -> None:
    fleet = await start()
    async with http.post(url(fleet, "/sim/faults"), json=update) as answer:
        assert answer.status == 400
        assert words in await answer.text()
    assert fleet.listeners[0].server.faults == Faults()


def test_faults_as_words() -> None:
    faults = changed(Faults(), parse("slow=2,error_rate=0.25,dead=true,lies.kv=nan,lies.waiting=7"))
    assert (faults.slow, faults.error_rate, faults.dead, faults.lies["waiting"]) == (2.0, 0.25, True, 7.0)
    assert math.isnan(faults.lies["kv"])
    with pytest.raises(ValueError, match="NAME=VALUE"):
        parse("slow")


async def test_the_endpoints_file(start: StartFleet, tmp_path: Path) -> None:
    fleet = await start(3, namespace="ns")
    path = tmp_path / "endpoints.yaml"
    path.write_text("old")
    fleet.write_endpoints(path)
    endpoints = yaml.safe_load(path.read_text())["endpoints"]
    assert [e["name"] for e in endpoints] == ["sim-0", "sim-1", "sim-2"]
    assert endpoints[0] == {
        "name": "sim-0",
        "namespace": "ns",
        "address": "127.0.0.1",
        "port": str(fleet.listeners[0].server.port),
        "labels": {"llm-d.ai/engine-type": "vllm"},
    }
    assert [p.name for p in tmp_path.iterdir()] == ["endpoints.yaml"]


async def test_a_taken_port_stops_the_start(start: StartFleet) -> None:
    fleet = await start()
    other = Fleet(
        Settings(profile=fleet.settings.profile), [0, fleet.listeners[0].server.port], host="127.0.0.1"
    )
    with pytest.raises(OSError, match="in use"):
        await other.open()
    await other.wait_closed()
    assert not any(x.alive for x in other.listeners)
