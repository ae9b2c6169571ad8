"""One pool in force: who waits over a reload, what is told to whom, and what the end leaves behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from epp.call import RequestCall
from epp.config.catalog import Catalog, Kind, Row
from epp.config.reload import Text
from epp.config.sources import PoolConfigs
from epp.domain.endpoint import EndpointSpec
from epp.domain.errors import Answer
from epp.domain.objective import Objective
from epp.domain.pool import AppProtocol
from epp.domain.snapshot import Ints, Snapshot
from epp.domain.views import Ending, InflightView, Report, Route, Verdict
from epp.generation import Services
from epp.pool import LOOK_S, MAX_PRIORITIES, Pool, open_pool
from epp.scheduling.contract import BuildContext, NoParameters, PluginType
from tests.builders import head
from tests.unit.config.configs import HEADER, TYPES
from tests.unit.pooling import services
from tests.unit.telemetry.pages import page

BODY = b'{"model": "base", "messages": [{"role": "user", "content": "hello"}]}'
ONE, TWO = EndpointSpec("a", "10.0.0.1", 8000), EndpointSpec("b", "10.0.0.2", 8000)


def queued(most: int = 5, each: int = 1, own: str = "") -> Text:
    """With queues for `most` requests; `each` request at once is what an endpoint takes."""
    return Text(
        "c",
        HEADER + "featureGates: [flowControl]\nplugins:\n- {type: random-picker}\n"
        f"- {{type: concurrency-detector, parameters: {{maxConcurrency: {each}, headroom: 0}}}}\n"
        f"flowControl: {{maxRequests: {most}, saturationDetector: {{pluginRef: concurrency-detector}}}}\n"
        f"{own}",
    )


OPEN = Text("c", HEADER + "plugins:\n- {type: random-picker}\n")


def opened(text: Text, made: Services | None = None, types: Catalog = TYPES) -> Pool:
    return open_pool("pool", PoolConfigs(text, plugin_types=types).of("", "pool"), made or services())


def take(pool: Pool, text: Text) -> bool:
    assert pool.config is not None
    return pool.config.offer(text)


class Client:
    """One request."""

    def __init__(self, pool: Pool) -> None:
        self.call: RequestCall = pool.open(head())
        verdict = self.call.decide(BODY)
        self.coming: asyncio.Future[Verdict] | None = None
        self.verdict: Verdict | None = None
        if isinstance(verdict, Route | Answer):
            self.verdict = verdict
        else:
            self.coming = asyncio.ensure_future(verdict)

    @property
    def got(self) -> str:
        """Where it went, the status that it was answered, or nothing while it waits."""
        verdict = self.verdict
        if verdict is None and self.coming is not None and self.coming.done():
            verdict = self.coming.result()
        if verdict is None:
            return ""
        return verdict.destination if isinstance(verdict, Route) else str(verdict.status)

    def end(self) -> None:
        self.call.end(Ending.NATURAL, Report())


async def turns(pool: Pool | None = None) -> None:
    for _ in range(4):
        if pool is not None:
            pool.tick(0.0)
        await asyncio.sleep(0)


async def test_who_waits_in_queues_before_and_after_a_reload_goes_when_there_is_room() -> None:
    pool = opened(queued())
    pool.set_endpoints([ONE])
    running, waiting = Client(pool), Client(pool)
    assert (running.got, waiting.got) == ("10.0.0.1:8000", "")
    old = pool.generation.queues
    assert take(pool, queued(most=6))
    assert pool.generation.queues is not old
    late = Client(pool)
    assert late.got == ""  # the endpoint is as full as before
    running.end()
    await turns(pool)
    assert sorted((waiting.got, late.got)) == ["", "10.0.0.1:8000"]
    (waiting if waiting.got else late).end()
    await turns(pool)
    assert (waiting.got, late.got) == ("10.0.0.1:8000", "10.0.0.1:8000")
    late.end()
    waiting.end()
    await turns(pool)
    assert pool._leaving == []
    pool.close()


async def test_a_reload_that_leaves_the_queues_alone_moves_nobody() -> None:
    pool = opened(queued())
    pool.set_endpoints([ONE])
    running, waiting = Client(pool), Client(pool)
    queues = pool.generation.queues
    assert take(pool, queued(own="epp: {reasonsHeader: true}\n"))
    assert pool.generation.queues is queues
    assert pool._leaving == []
    running.end()
    await turns()  # nobody has to tick for it
    assert waiting.got == "10.0.0.1:8000"
    waiting.end()
    pool.close()


async def test_another_detector_makes_other_queues() -> None:
    pool = opened(queued())
    pool.set_endpoints([ONE])
    running, waiting = Client(pool), Client(pool)
    assert take(pool, queued(each=2))
    late = Client(pool)
    assert late.got == "10.0.0.1:8000"  # by the new one there is room
    await turns(pool)
    assert waiting.got == ""
    late.end()
    await turns(pool)
    assert waiting.got == ""  # by the one that it began with there is none
    running.end()
    await turns(pool)
    assert waiting.got == "10.0.0.1:8000"
    pool.close()


async def test_queues_are_closed_and_opened_by_a_reload() -> None:
    made = services()
    pool = opened(queued(), made)
    pool.set_endpoints([ONE])
    running, waiting = Client(pool), Client(pool)
    assert page(made.metrics).values("llm_d_epp_flow_control_queue_size") == [1]
    assert take(pool, OPEN)
    assert page(made.metrics).values("llm_d_epp_flow_control_queue_size") == []
    running.end()
    await turns(pool)
    assert waiting.got == "10.0.0.1:8000"
    waiting.end()
    early = Client(pool)
    assert take(pool, queued())
    first, second = Client(pool), Client(pool)
    assert (early.got, first.got) == ("10.0.0.1:8000", "")
    early.end()
    await turns(pool)
    assert (first.got, second.got) == ("10.0.0.1:8000", "")
    assert page(made.metrics).values("llm_d_epp_flow_control_queue_size") == [1]
    pool.close()
    assert second.got == "503"


async def test_ends_are_told_at_once_while_anybody_waits_in_any_queues() -> None:
    waiting: set[object] = set()

    def told(who: object, waits: bool) -> None:
        (waiting.add if waits else waiting.discard)(who)

    pool = opened(queued(), services(waiting=told))
    pool.set_endpoints([ONE])
    running, before = Client(pool), Client(pool)
    assert take(pool, queued(most=6))
    after = Client(pool)
    assert len(waiting) == 2
    before.end()  # its client left
    await turns(pool)
    assert after.got == ""
    assert len(waiting) == 1
    running.end()
    await turns(pool)
    assert waiting == set()
    pool.close()


async def test_a_pool_that_goes_answers_who_waits_in_old_and_new_queues() -> None:
    made = services()
    pool = opened(queued(), made)
    pool.set_endpoints([ONE])
    running, before = Client(pool), Client(pool)
    assert take(pool, queued(most=6))
    after, unread = Client(pool), pool.open(head())
    pool.close()
    assert (before.got, after.got) == ("503", "503")
    late = unread.decide(BODY)
    assert isinstance(late, Answer)
    assert late.status == 503
    for one in (running, before, after):
        one.end()
    unread.end(Ending.REFUSED, Report())
    assert made.metrics._pools.totals.held == 0
    assert made.scraper._pools == {}
    assert page(made.metrics).values("llm_d_epp_flow_control_queue_size") == []


async def test_a_watched_secret_leaves_no_task_behind(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    own = f"epp: {{trust: {{objective: secret, secret: {{header: x-s, file: {secret}}}}}}}\n"
    before = asyncio.all_tasks()
    pool = opened(queued(own=own))
    for most in (6, 7, 8):
        assert take(pool, queued(most, own=own))
        await turns()
    assert len(asyncio.all_tasks() - before) == 1
    pool.shutdown()
    await turns()
    assert asyncio.all_tasks() == before


async def test_what_cannot_be_put_into_force_is_asked_by_nobody(tmp_path: Path) -> None:
    made = services()
    pool = opened(queued(), made)
    generation, scraped = pool.generation, list(made.scraper._pools)
    listeners = list(pool.known.store.on_pool_change)
    own = f"epp: {{trust: {{objective: secret, secret: {{header: x-s, file: {tmp_path}/none}}}}}}\n"
    source = Text(
        "c",
        queued(own=own).text.replace(
            "plugins:", "plugins:\n- {type: metrics-data-source, parameters: {port: 9}}"
        ),
    )
    assert not take(pool, source)
    assert pool.generation is generation
    assert list(made.scraper._pools) == scraped
    assert pool.known.store.on_pool_change == listeners
    (tmp_path / "none").write_text("hidden")
    assert take(pool, source)
    assert len(made.scraper._pools) == 1
    assert list(made.scraper._pools) != scraped
    pool.close()


class Forgetful:
    """A detector that fails when an endpoint goes."""

    def __init__(self, parameters: NoParameters, context: BuildContext) -> None:
        pass

    def saturation(self, snapshot: Snapshot, rows: Ints, inflight: InflightView, now: float) -> float:
        return 0.0

    def forget(self, slot: int) -> None:
        raise RuntimeError("a bug in somebody's plugin")


async def test_a_detector_that_fails_to_forget_keeps_no_endpoint_in_the_pool() -> None:
    row = PluginType("forgetful-detector", NoParameters, Forgetful, "for a test")
    types = Catalog([*(TYPES[name] for name in TYPES), Row(row, Kind.SATURATION)])
    text = HEADER + (
        "plugins:\n- {type: random-picker}\n- {type: forgetful-detector}\n"
        "flowControl: {saturationDetector: {pluginRef: forgetful-detector}}\n"
    )
    made = services()
    pool = opened(Text("c", text), made, types)
    pool.set_endpoints([ONE, TWO])
    pool.set_endpoints([TWO])
    assert [one.name for one in pool.known.store.snapshot.endpoints] == ["b"]
    assert Client(pool).got == "10.0.0.2:8000"
    pool.close()


async def test_ready_when_all_were_asked_or_after_a_while() -> None:
    now = 100.0

    def clock() -> float:
        return now

    pool = opened(OPEN, services(clock=clock))
    assert pool.missing() == ("the pool's endpoints are not known yet",)
    pool.set_endpoints([ONE])
    assert pool.missing() == ("not all endpoints have been asked yet how busy they are",)
    now += LOOK_S
    assert pool.missing() == ()
    assert take(pool, queued())  # once it was ready, a reload does not change that
    assert pool.missing() == ()
    pool.close()


async def test_more_priorities_than_anybody_means_make_no_more_queues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = opened(queued())
    pool.set_objectives({f"o{i}": Objective(f"o{i}", i - 600) for i in range(1200)})
    assert pool.generation.queues is not None
    registry = pool.generation.queues.control.registry
    assert len(registry.bands) == MAX_PRIORITIES
    assert registry.band(-250).priority == -250
    assert registry.band(599).priority == 0
    pool.set_objectives({f"o{i}": Objective(f"o{i}", i) for i in range(1201)})
    assert caplog.text.count("objectives of") == 1
    pool.close()


async def test_a_pool_of_http_servers_is_not_ready_for_parsers_of_grpc_alone() -> None:
    grpc = "plugins:\n- {type: random-picker}\n- {type: vllmgrpc-parser}\n"
    chosen = "requestHandler: {parsers: [{pluginRef: vllmgrpc-parser}]}\n"
    pool = opened(Text("c", HEADER + grpc + chosen))
    pool.set_endpoints(())
    assert not pool.missing()
    pool.serve(AppProtocol.HTTP)
    assert "appProtocol: kubernetes.io/h2c" in pool.missing()[0]
    pool.serve(AppProtocol.H2C)
    assert not pool.missing()
    pool.serve(AppProtocol.HTTP)
    assert take(pool, OPEN)
    assert not pool.missing()
