"""How long a request waits for Python: from its event's queueing to its verdict, while the loop is busy.

    python bench/handoff.py [--transport native|grpcio|both] [--handoff loop|thread|both] [--per-s 1000]

A picker scrapes 1,000 endpoints, its metrics are read every second, and requests come at a fixed rate
whatever it does (ext_proc from a client of our own, without Envoy). Prints quantiles of
epp_transport_handoff_seconds (linear between its bounds) and of the client's own latency, from the moment a
request was due to its verdict; writes out/bench-handoff.json. `thread`: bench/handoff_thread.py. The grpcio
transport has no hand-off: there the client's latency is all there is to see.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import scrape
import uvloop
import wanted_table
from grpc_client import connect
from handoff_load import OpenLoop
from rich.console import Console
from rich.table import Table
from stack import BIN, ROOT, Served, epp_serve, fetch
from wanted_table import Line

CONNECTIONS = 4
WARM_S = 3.0
METRICS_EVERY_S = 1.0
COLLECTED_S = 1.1
"""The transport's counts reach the metrics once a second."""
SCRAPED_HISTOGRAMS = 20
"""A page as large as a vLLM server's."""
BUCKET = re.compile(r'^epp_transport_handoff_seconds_bucket\{.*?le="([^"]+)"\} (\S+)$', re.MULTILINE)
THREAD = (sys.executable, str(ROOT / "bench/handoff_thread.py"))
QUANTILES = (0.5, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Load:
    per_s: float
    seconds: float
    endpoints: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Milliseconds by QUANTILES."""

    name: str
    per_s: float
    errors: int
    scrape_interval_s: float
    picker_cores: float
    handoff_ms: Sequence[float]
    """Empty where there is none."""
    latency_ms: Sequence[float]

    def shown(self) -> str:
        if self.handoff_ms:
            return f"p50 {self.handoff_ms[0]:.2f}, p99 {self.handoff_ms[1]:.2f} ms"
        return f"client's p99 {self.latency_ms[1]:.1f} ms"


def quantile_ms(buckets: Sequence[tuple[float, float]], quantile: float) -> float:
    """Of a histogram: upper bounds in seconds and cumulated counts."""
    rank = quantile * buckets[-1][1]
    below, under = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            return 1e3 * (below + (rank - under) / max(count - under, 1e-9) * (min(bound, 10.0) - below))
        below, under = bound, count
    return float("inf")


async def _read_metrics(served: Served) -> None:
    while True:
        await asyncio.to_thread(fetch, f"http://127.0.0.1:{served.metrics}/metrics")
        await asyncio.sleep(METRICS_EVERY_S)


async def _buckets(served: Served) -> list[tuple[float, float]]:
    await asyncio.sleep(COLLECTED_S)
    found = BUCKET.findall(await asyncio.to_thread(fetch, f"http://127.0.0.1:{served.metrics}/metrics"))
    return [(float(bound), float(count)) for bound, count in found]


async def _play(served: Served, name: str, load: Load) -> Seen:
    requests = OpenLoop([await connect(served.grpc) for _ in range(CONNECTIONS)])
    reading = asyncio.create_task(_read_metrics(served))
    await requests.run(load.per_s, WARM_S)
    before = dict(await _buckets(served))
    began, cpu_s = time.perf_counter(), served.child.cpu_s()
    await requests.run(load.per_s, load.seconds)
    took, cpu_s = time.perf_counter() - began, served.child.cpu_s() - cpu_s
    reading.cancel()
    waited = [(bound, count - before.get(bound, 0.0)) for bound, count in await _buckets(served)]
    latencies = sorted(requests.latencies_s)
    return Seen(
        name=name,
        per_s=len(latencies) / took,
        errors=requests.errors,
        scrape_interval_s=await asyncio.to_thread(served.metric, "epp_scrape_interval_seconds"),
        picker_cores=cpu_s / took,
        handoff_ms=[quantile_ms(waited, q) for q in QUANTILES] if waited and waited[-1][1] else [],
        latency_ms=[1e3 * latencies[int(q * (len(latencies) - 1))] for q in QUANTILES],
    )


async def measure(transport: str, handoff: str, load: Load) -> Seen:
    name = f"{transport}, {handoff}" if transport == "native" else transport
    page = scrape.body(SCRAPED_HISTOGRAMS)
    with tempfile.TemporaryDirectory(prefix="epp-bench-") as folder:
        async with scrape.responder({"/metrics": page}, "0.0.0.0") as port:
            # All of 127.0.0.0/8 is one listener.
            engines = [f"127.1.{number // 250}.{number % 250 + 1}:{port}" for number in range(load.endpoints)]
            command = THREAD if handoff == "thread" else (str(BIN / "epp"),)
            flags = ["--transport", transport]
            served = await asyncio.to_thread(epp_serve, engines, Path(folder), flags=flags, command=command)
            try:
                return await _play(served, name, load)
            finally:
                await asyncio.to_thread(served.stop_now)


def details(runs: Sequence[Seen]) -> Table:
    table = Table(title="milliseconds: p50 / p99 / p99.9")
    for name in ("transport, hand-off", "queued to verdict", "client: due to verdict"):
        table.add_column(name)
    for name in ("requests/s", "errors", "scrape interval s", "picker cores"):
        table.add_column(name, justify="right")
    for seen in runs:
        shown = [" / ".join(f"{ms:.2f}" for ms in of) or "-" for of in (seen.handoff_ms, seen.latency_ms)]
        row = (
            f"{seen.per_s:,.0f}",
            str(seen.errors),
            f"{seen.scrape_interval_s:.2f}",
            f"{seen.picker_cores:.2f}",
        )
        table.add_row(seen.name, *shown, *row)
    return table


def line(runs: Sequence[Seen], load: Load) -> Line:
    shown = {seen.name: seen.shown() for seen in runs}
    what = f"event queued to verdict, {load.endpoints:,} endpoints scraped, {load.per_s:,.0f} requests/s"
    return Line(what, "p99 < 5 ms", shown.get("native, loop", "-"), shown.get("grpcio", "-"))


@click.command(help=__doc__)
@click.option(
    "--transport", type=click.Choice(["native", "grpcio", "both"]), default="both", show_default=True
)
@click.option("--handoff", type=click.Choice(["loop", "thread", "both"]), default="loop", show_default=True)
@click.option("--per-s", default=1000.0, show_default=True, help="Requests a second.")
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--endpoints", default=1000, show_default=True, type=click.IntRange(1, 60_000))
@click.option("--out", default=ROOT / "out/bench-handoff.json", type=click.Path(path_type=Path))
def main(transport: str, handoff: str, per_s: float, seconds: float, endpoints: int, out: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the scraped Envoy inherits it
    load = Load(per_s, seconds, endpoints)
    runs = []
    for one in ("native", "grpcio") if transport == "both" else (transport,):
        ways = ("loop", "thread") if handoff == "both" else (handoff,)
        ways = ways if one == "native" else ("loop",)
        runs += [uvloop.run(measure(one, way, load)) for way in ways]
    console = Console(width=150)
    console.print(wanted_table.table([line(runs, load)]))
    console.print(details(runs))
    out.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "lines": [asdict(line(runs, load))],
        "load": asdict(load),
        "runs": [asdict(seen) for seen in runs],
    }
    out.write_text(json.dumps(found, indent=1))
    console.print(f"written: {out}")
    if any(seen.errors for seen in runs):
        raise click.ClickException("some requests failed: see the errors column")


if __name__ == "__main__":
    main()
