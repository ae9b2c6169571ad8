"""A pool for one decision: endpoints out of a file, their load scraped once or read from a file."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from epp.config.data import DataSettings
from epp.config.decode import BAD, decode
from epp.config.problems import ConfigError, Problem, nearest
from epp.config.text import parse
from epp.datalayer.endpoints_file import parse_endpoints
from epp.datalayer.inflight import Ledger
from epp.datalayer.load import Load
from epp.datalayer.models import ModelProber
from epp.datalayer.resolve import Resolver
from epp.datalayer.scrape import Scraper
from epp.datalayer.store import Store
from epp.domain.endpoint import Endpoint, EndpointSpec

FRESH_S = 5.0
"""All metrics of the one scrape count as fresh, however long the slowest endpoint took."""
RESOLVE_S = 5.0
SCRAPE_S = 1.5
"""Longer than the scraper's own deadline: who has not answered then is left without metrics."""
_STEP_S = 0.01

_Count = Annotated[float, Meta(ge=0, le=1e9)]
_Whole = Annotated[int, Meta(ge=0, le=10**9)]


class GivenLoad(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One endpoint in a file of loads. The last three are our own unfinished requests there."""

    waiting: _Count = 0.0
    running: _Count = 0.0
    kv_used: Annotated[float, Meta(ge=0, le=1)] = 0.0
    block_size: _Whole | None = None
    num_blocks: _Whole | None = None
    lora_max: _Whole | None = None
    lora_running: list[str] = []
    lora_waiting: list[str] = []
    models: list[str] | None = None
    our_requests: Annotated[int, Meta(ge=0, le=100_000)] = 0
    our_prefill_tokens: _Whole = 0
    our_decode_tokens: _Whole = 0


class OnePool:
    """What one decision knows: the store, the ledger, and which models are served where."""

    def __init__(self) -> None:
        self.store = Store()
        self.ledger = Ledger()
        self.models = ModelProber().join(self.store)
        self.store.set_scrape_interval(FRESH_S / 3)

    def read_endpoints(self, path: Path) -> list[EndpointSpec]:
        """Answers entries whose host name gave no address. Raises EndpointsFileError or OSError."""
        specs = parse_endpoints(path.read_bytes(), str(path))
        asyncio.run(self._resolve(specs))
        found = [endpoint.key for endpoint in self.store.endpoints]
        return [spec for spec in specs if not any(_is_of(key, spec) for key in found)]

    async def _resolve(self, specs: Sequence[EndpointSpec]) -> None:
        done = asyncio.Event()

        def resolved(found: Sequence[EndpointSpec]) -> None:
            self.store.set_endpoints(found, time.monotonic())
            done.set()

        resolver = Resolver(resolved)
        resolver.set_specs(specs)
        asking = asyncio.create_task(resolver.run())
        try:
            async with asyncio.timeout(RESOLVE_S):
                await done.wait()
        except TimeoutError:  # of name servers that say nothing; what needs none is there
            resolved([spec for spec in specs if _is_literal(spec.address)])
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def scrape(self, data: DataSettings) -> list[Endpoint]:
        """Ask every endpoint once, as `epp serve` would. Answers those that did not say."""
        asyncio.run(self._scrape(data))
        snapshot = self.store.snapshot
        fresh = snapshot.fresh(time.monotonic())
        return [endpoint for endpoint, said in zip(snapshot.endpoints, fresh, strict=True) if not said]

    async def _scrape(self, data: DataSettings) -> None:
        if data.scrape is None:
            return
        scraper = Scraper()
        scraper.join(self.store, source=data.scrape.source, engines=data.engines)
        running = [asyncio.create_task(scraper.run())]
        if data.models is not None:
            prober = ModelProber()
            self.models = prober.join(self.store, source=data.models)
            running.append(asyncio.create_task(prober.run()))
        try:
            async with asyncio.timeout(SCRAPE_S):
                while not self._complete(data):  # noqa: ASYNC110 - nobody says when the last has answered
                    await asyncio.sleep(_STEP_S)
        except TimeoutError:
            pass
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _complete(self, data: DataSettings) -> bool:
        snapshot = self.store.snapshot
        asked = data.models is None or all(names is not None for names in snapshot.models)
        return asked and bool(snapshot.fresh(time.monotonic()).all())

    def read_loads(self, path: Path) -> None:
        """Loads by endpoint name, `namespace/name` or `ip:port`. Raises ConfigError or OSError."""
        source = str(path)
        value, report = parse(path.read_text(encoding="utf-8"), source)
        loads = decode(value or {}, dict[str, GivenLoad], (), report)
        report.raise_any()
        assert loads is not BAD
        by_word: dict[str, Endpoint] = {}
        for endpoint in self.store.endpoints:
            for word in (endpoint.name, endpoint.key, endpoint.authority):
                by_word.setdefault(word, endpoint)
        now = time.monotonic()
        for word, load in loads.items():
            if word not in by_word:
                report.error((word,), f"no endpoint '{word}'{nearest(word, by_word)}", key=True)
                continue
            self._take(by_word[word], load, now)
        report.raise_any()

    def _take(self, endpoint: Endpoint, given: GivenLoad, now: float) -> None:
        load = Load(
            waiting=given.waiting,
            running=given.running,
            kv_used=given.kv_used,
            block_size=given.block_size,
            num_blocks=given.num_blocks,
            lora_max=given.lora_max,
            lora_running=frozenset(given.lora_running),
            lora_waiting=frozenset(given.lora_waiting),
        )
        self.store.report(endpoint, load, now)
        if given.models is not None:
            self.store.set_models(endpoint, frozenset(given.models), now)
        requests = max(given.our_requests, int(bool(given.our_prefill_tokens or given.our_decode_tokens)))
        for i in range(requests):  # the tokens are all put on the first; only their sums are looked at
            self.ledger.start(
                endpoint.slot,
                prefill_tokens=given.our_prefill_tokens if i == 0 else 0,
                decode_tokens=given.our_decode_tokens if i == 0 else 0,
            )


def _is_literal(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _is_of(key: str, spec: EndpointSpec) -> bool:
    """The endpoint came from this entry: it has its name, or its name and an address."""
    whole = f"{spec.namespace}/{spec.name}"
    return key == whole or key.startswith(f"{whole}-")


def unreadable(path: Path, error: OSError) -> ConfigError:
    """The same words as for a configuration that cannot be read."""
    return ConfigError([Problem(str(path), None, (), f"cannot be read: {error.strerror}")])
