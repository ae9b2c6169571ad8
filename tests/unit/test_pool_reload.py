"""A pool that is given one configuration after another: what it keeps, what it refuses, what it lets go."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from epp.adapters import SizedIndex
from epp.config.reload import Text
from epp.config.sources import PoolConfigs
from epp.datalayer.models import ModelProber
from epp.datalayer.scrape import Scraper
from epp.domain.endpoint import EndpointSpec
from epp.generation import Services
from epp.pool import Pool, open_pool
from epp.telemetry.metrics import Metrics
from epp.telemetry.otel import open_tracer
from epp.telemetry.reasons import DecisionLog
from epp.telemetry.refusals import RefusalLog
from tests.builders import request
from tests.unit.config.configs import HEADER, TYPES
from tests.unit.telemetry.pages import page

INDEX = "approx-prefix-cache-producer"


def text(block_tokens: int = 64, requests: int = 5, own: str = "") -> Text:
    return Text(
        "c",
        HEADER + "featureGates: [flowControl]\nplugins:\n"
        f"- {{type: {INDEX}, parameters: {{blockSizeTokens: {block_tokens}}}}}\n"
        "- {type: expected-work-scorer}\n"
        f"flowControl: {{maxRequests: {requests}}}\n{own}",
    )


def opened(environ: Mapping[str, str] | None = None) -> Pool:
    metrics = Metrics()
    services = Services(
        metrics=metrics,
        tracer=open_tracer(False, {}),
        decisions=DecisionLog(10),
        refusals=RefusalLog(),
        scraper=Scraper(),
        prober=ModelProber(),
        chance=Random(0),
        clock=monotonic,
        environ=environ or {},
        waiting=lambda label, waiting: None,
    )
    configs = PoolConfigs(text(), plugin_types=TYPES)
    configs.count(metrics.configs)
    return open_pool("pool", configs.of("", "pool"), services)


def offer(pool: Pool, new: Text) -> bool:
    assert pool.config is not None
    return pool.config.offer(new)


def plugin(pool: Pool, name: str = INDEX) -> object:
    return pool.generation.loaded.built[name].step.plugin


async def test_what_did_not_change_goes_on() -> None:
    pool = opened()
    pool.set_endpoints([EndpointSpec("a", "10.0.0.1", 8000)])
    known, index, queues = pool.known, plugin(pool), pool.generation.queues
    assert offer(pool, text(own="epp: {reasonsHeader: true}\n"))
    assert pool.generation.director.settings.reasons_header
    assert (pool.known, plugin(pool), pool.generation.queues) == (known, index, queues)
    assert offer(pool, text(requests=6))
    assert plugin(pool) is index
    assert pool.generation.queues is not queues
    assert offer(pool, text(block_tokens=16))
    assert plugin(pool) is not index
    assert [endpoint.name for endpoint in pool.known.store.endpoints] == ["a"]
    pool.close()


async def test_an_index_that_was_kept_still_learns_and_forgets() -> None:
    pool = opened()
    pool.set_endpoints([EndpointSpec("a", "10.0.0.1", 8000)])
    index = plugin(pool)
    assert isinstance(index, SizedIndex)

    def serve() -> None:
        scheduler = pool.generation.scheduler
        snapshot = pool.known.store.snapshot
        scheduler.chosen(
            *scheduler.schedule(request("x" * 9000), snapshot, snapshot.every, now=monotonic(), seed=1)
        )

    serve()
    blocks = index.entries
    assert blocks > 0
    assert offer(pool, text(requests=6))
    assert plugin(pool) is index
    assert index.entries == blocks
    pool.set_endpoints([])  # the store tells the pool, and the pool who is in force now
    assert index.entries == 0
    pool.close()


async def test_what_cannot_be_put_into_force_leaves_all_as_it_was(tmp_path: Path) -> None:
    pool = opened()
    generation, secret = pool.generation, tmp_path / "secret"
    own = f"epp: {{trust: {{objective: secret, secret: {{header: x-s, file: {secret}}}}}}}\n"
    assert not offer(pool, text(own=own))
    assert pool.generation is generation
    assert pool.config is not None
    assert pool.config.last_error == f"trust.secret: {secret} cannot be read: No such file or directory"
    secret.write_text("hidden")
    assert offer(pool, text(own=own))
    assert pool.config.last_error == ""
    pool.close()


async def test_metrics_show_the_plugins_in_force() -> None:
    pool = opened()
    metrics = pool.generation._services.metrics
    for i in range(3):
        assert offer(pool, text(block_tokens=16 + i))
    assert len(page(metrics).values("llm_d_epp_prefix_indexer_size")) == 1
    assert page(metrics).value("epp_config_generation", name="pool") == 4
    pool.close()


@pytest.mark.parametrize("bad", [False, True])
async def test_many_changes_leave_nothing_behind(bad: bool) -> None:
    pool = opened()
    gone: list[weakref.ref[object]] = []
    for i in range(30):
        gone += map(
            weakref.ref, (pool.generation, plugin(pool), pool.generation.queues, pool.generation.director)
        )
        if bad:
            assert not offer(pool, text(own="nonsense: 1\n"))
        assert offer(pool, text(block_tokens=16 + i, requests=6 + i))
        pool.tick(monotonic())
    gc.collect()
    assert not [one for one in (ref() for ref in gone) if one is not None]
    pool.close()
