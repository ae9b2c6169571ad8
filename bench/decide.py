"""What one decision costs, without any I/O: `python -m bench.decide [--profile]`.

Pools of 8 to 10,000 endpoints with 32 requests in flight each, scraped anew in part before every decision;
a prompt of 32 KB (128 blocks of 64 tokens) of which they have different shares cached. Columns, in
microseconds, medians:

    hash      prompt -> block hashes (paid once a request, whatever the pool)
    decide    producers, filters, scorers, picker, decision value; hashes already known
    best      the fastest of these, which tells the cost apart from what else the machine did
    together  both: what a request pays
    learn     what follows a choice: the prefix index learns the prompt, the ledger counts it
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import numpy as np

from epp.datalayer.inflight import Ledger
from epp.domain.endpoint import Endpoint
from epp.domain.request import Api, Prompt, Request, RequestHead
from epp.domain.snapshot import Ints, Snapshot
from epp.parsing.blocks import HASH_BYTES, block_hashes, rooted
from epp.plugins.handlers import SingleProfile
from epp.plugins.load import KvCacheUtilization, Queue
from epp.plugins.pickers import MaxScore
from epp.plugins.prefix import (
    ApproximatePrefix,
    ApproximatePrefixParameters,
    PrefixCache,
    PrefixCacheParameters,
)
from epp.plugins.work import ExpectedWork, ExpectedWorkParameters
from epp.scheduling.contract import Cycle, Scorer
from epp.scheduling.profile import Named, Profile
from epp.scheduling.scheduler import Scheduler

POOLS = (8, 100, 1_000, 10_000)
PROMPT_BYTES = 32 * 1024
WANTED_US = {100: 100.0, 10_000: 1_000.0}
"""For `decide` with the default policy."""


class KnownHashes(ApproximatePrefix):
    """The producer with the hashing left out, to time the rest apart."""

    known: list[bytes] | None = None

    def _chains(self, request: Request) -> list[bytes]:
        return self.known if self.known is not None else super()._chains(request)


def pool(size: int, rng: Random) -> Snapshot:
    def column(draw: Callable[[], float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.asarray([draw() for _ in range(size)], dtype=np.float64)

    endpoints = tuple(
        Endpoint(f"pod-{i}", "default", f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", 8000, i)
        for i in range(size)
    )
    return Snapshot(
        version=1, at=0.0, endpoints=endpoints, slots=np.arange(size),
        waiting=column(lambda: rng.randrange(4)), running=column(lambda: 32.0), kv_used=column(rng.random),
        block_size=np.full(size, 16),
        num_blocks=np.full(size, 27_000), scraped_at=np.zeros(size), lora_max=np.zeros(size, dtype=np.intp),
        lora_running=(frozenset(),) * size, lora_waiting=(frozenset(),) * size, models=(None,) * size,
        available=np.ones(size, dtype=np.bool_),
    )  # fmt: skip


def _scraped(snapshot: Snapshot, version: int, rng: Random) -> Snapshot:
    some = rng.sample(range(len(snapshot)), max(1, len(snapshot) // 20))
    scraped_at = snapshot.scraped_at.copy()
    scraped_at[some] = 0.001 * version
    return replace(snapshot, version=version, scraped_at=scraped_at)


def prompt_of(rng: Random) -> Request:
    text = rng.randbytes(PROMPT_BYTES)
    head = RequestHead(headers={}, method="POST", path="/v1/completions", request_id="r", received_at=0.0)
    return Request(
        head=head, api=Api.COMPLETIONS, model="m", target_model="m", size_bytes=len(text),
        prompts=(Prompt(text=text),),
    )  # fmt: skip


class Bench:
    """One policy on one pool."""

    def __init__(self, policy: str, size: int) -> None:
        rng = Random(7)
        self.snapshot = pool(size, rng)
        self.rows: Ints = np.arange(size)
        self.ledger = Ledger()
        self.request = prompt_of(rng)
        self.producer = KnownHashes(ApproximatePrefixParameters())
        scorers: Sequence[tuple[Named[Scorer], float]]
        if policy == "expected-work":
            scorers = [(Named("expected-work-scorer", "", ExpectedWork(ExpectedWorkParameters())), 1.0)]
        else:
            scorers = [
                (Named("queue-scorer", "", Queue()), 2.0),
                (Named("kv-cache-utilization-scorer", "", KvCacheUtilization()), 2.0),
                (Named("prefix-cache-scorer", "", PrefixCache(PrefixCacheParameters())), 3.0),
            ]
        picker = Named("max-score-picker", "", MaxScore())
        handler = Named("single-profile-handler", "", SingleProfile())
        produce = Named("approx-prefix-cache-producer", "", self.producer)
        self.scheduler = Scheduler(
            [Profile("default", picker, (), tuple(scorers))],
            handler,
            [produce, *(step for step, _ in scorers), picker, handler],
            self.ledger,
        )
        for slot in range(size):
            for _ in range(32):
                self.ledger.start(slot, prefill_tokens=rng.randrange(500))
        # All have the system prompt, one in ten a document, a few the conversation to different lengths.
        [chain] = self.producer._chains(self.request)
        self.producer.known = [chain]
        for slot in range(size):
            depth = 16 if rng.random() < 0.9 else 64
            self.producer._index.learn(slot, chain[: depth * HASH_BYTES], 6750)
        for slot in rng.sample(range(size), min(size, 6)):
            self.producer._index.learn(slot, chain[: rng.randrange(64, 128) * HASH_BYTES], 6750)
        self.seed = 0
        self.snapshots = [_scraped(self.snapshot, version, rng) for version in range(32)]

    def decide(self) -> Cycle:
        self.seed += 1
        cycle, self.decision = self.scheduler.schedule(
            self.request, self.snapshots[self.seed % 32], self.rows, now=0.1, seed=self.seed
        )
        return cycle

    def hash(self) -> None:
        start = 0x9E3779B97F4A7C15
        for chain in block_hashes(self.request.prompts, 64, 2048):
            rooted(chain, start)

    def learn(self) -> None:
        self.scheduler.chosen(self.cycle, self.decision)
        self.ledger.start(self.decision.endpoint.slot, prefill_tokens=self.decision.uncached_tokens).end()

    def times(self, seconds: float) -> dict[str, float]:
        self.cycle = self.decide()
        parts = {"hash": self.hash, "decide": self.decide, "learn": self.learn}
        took = {name: _took_us(part, seconds) for name, part in parts.items()}
        found = {name: statistics.median(times) for name, times in took.items()}
        found["best"] = min(took["decide"])
        found["together"] = found["hash"] + found["decide"]
        return found


def _took_us(call: Callable[[], object], seconds: float) -> list[float]:
    took: list[float] = []
    end = time.perf_counter() + seconds
    gc.disable()
    while time.perf_counter() < end or len(took) < 20:
        start = time.perf_counter()
        call()
        took.append((time.perf_counter() - start) * 1e6)
    gc.enable()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each number")
    parser.add_argument("--pools", type=int, nargs="*", default=POOLS, metavar="ENDPOINTS")
    parser.add_argument("--profile", action="store_true", help="also print where the time goes (cProfile)")
    options = parser.parse_args()
    print(
        f"{'policy':<14}{'endpoints':>10}{'hash':>9}{'decide':>9}{'best':>9}{'together':>10}{'learn':>9}   us"
    )
    for policy in ("expected-work", "reference"):
        for size in options.pools:
            found = Bench(policy, size).times(options.seconds)
            line = f"{policy:<14}{size:>10,}{found['hash']:>9.1f}{found['decide']:>9.1f}{found['best']:>9.1f}"
            line += f"{found['together']:>10.1f}{found['learn']:>9.1f}"
            if policy == "expected-work" and size in WANTED_US:
                line += f"   wanted: decide <= {WANTED_US[size]:,.0f}"
            print(line, flush=True)
    if options.profile:
        for size in (100, 10_000):
            bench = Bench("expected-work", size)
            bench.decide()
            profile = cProfile.Profile()
            profile.enable()
            for _ in range(2_000 if size <= 1_000 else 200):
                bench.decide()
            profile.disable()
            print(f"\nexpected-work, {size:,} endpoints, by own time")
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
