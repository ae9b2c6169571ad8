"""A thousand pools in one picker: what they cost while nothing happens, and what a request among them costs.

    python bench/pools.py [--pools 1000] [--endpoints 4] [--seconds 20] [--config FILE]

Runs `epp serve --all-pools` as it is; a small API server, and engines at a loopback address each, are in
the process of the benchmark. Prints seconds until every endpoint was scraped, memory, CPU while idle, what
the pages cost and how long they hold up others, and what roll-outs cost; then, in its own process, what
choosing an endpoint costs in one of many pools and in one alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import click
import uvloop
from gateway_load import chat_body
from pools_world import Cluster, Engines, namespace_of
from scrape import body, free_port

from epp.app import App
from epp.config.sources import PoolConfigs, preset
from epp.domain.endpoint import EndpointSpec
from epp.domain.pool import PoolSpec
from epp.domain.request import RequestHead
from epp.domain.views import AnswerHead, Ending, Report, Route
from epp.options import KubeOptions, Options
from epp.web.server import WebOptions

_START_S = 180.0
_TICKS = os.sysconf("SC_CLK_TCK")


def kubeconfig(folder: Path, port: int) -> Path:
    path = folder / "kubeconfig"
    cluster = {"name": "bench", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "bench", "context": {"cluster": "bench", "user": "bench"}}
    said = {
        "apiVersion": "v1", "kind": "Config", "current-context": "bench", "clusters": [cluster],
        "contexts": [context], "users": [{"name": "bench", "user": {"token": "bench"}}],
    }  # fmt: skip
    path.write_text(json.dumps(said))
    return path


class Picker:
    """`epp serve` as a process of its own."""

    def __init__(self, folder: Path, api_port: int, config: Path | None) -> None:
        self.metrics_port = free_port()
        arguments = [
            sys.executable, "-m", "epp", "serve", "--all-pools", "--all-namespaces", "--kubeconfig",
            str(kubeconfig(folder, api_port)), "--grpc-port", str(free_port()), "--grpc-health-port",
            str(free_port()), "--metrics-port", str(self.metrics_port), "--metrics-endpoint-auth=false",
            "--secure-serving=false", "--allow-experimental-plugins",
            *(("--config-file", str(config)) if config else ()),
        ]  # fmt: skip
        self.log = folder / "picker.log"
        self.began_at = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(arguments, stderr=log)

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def page(self, path: str) -> str:
        return f"http://127.0.0.1:{self.metrics_port}{path}"

    def since(self) -> float:
        return time.monotonic() - self.began_at

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


async def until(done: Callable[[], bool], picker: Picker, what: str) -> float:
    while not done():
        if picker.process.poll() is not None or picker.since() > _START_S:
            tail = picker.log.read_text()[-2000:]
            raise click.ClickException(f"{what}: not after {picker.since():.0f} s\n{tail}")
        await asyncio.sleep(0.02)
    return picker.since()


async def held_up(client: aiohttp.ClientSession, picker: Picker, work: Awaitable[object]) -> float:
    """The longest that another reader waited meanwhile, seconds."""
    task = asyncio.ensure_future(work)
    longest = 0.0
    while not task.done():
        began = time.perf_counter()
        async with client.get(picker.page("/healthz")) as answer:
            await answer.read()
        longest = max(longest, time.perf_counter() - began)
        await asyncio.sleep(0.001)
    await task
    return longest


async def pages(client: aiohttp.ClientSession, picker: Picker) -> None:
    for path in ("/metrics", "/debug/pools", "/debug/flowcontrol"):
        read = 0

        async def fetch(path: str = path) -> None:
            nonlocal read
            async with client.get(picker.page(path), headers={"Accept-Encoding": "identity"}) as answer:
                read = len(await answer.read())

        cpu, began = picker.cpu_s(), time.perf_counter()
        longest = await held_up(client, picker, fetch())
        wall, cpu = time.perf_counter() - began, picker.cpu_s() - cpu
        click.echo(
            f"  {path:20} {wall:6.2f} s  {cpu:5.2f} s CPU  {read / 1e6:6.2f} MB  "
            f"others wait at most {longest * 1e3:.0f} ms"
        )


async def world(pools: int, endpoints: int, seconds: float, config: Path | None) -> None:
    engines = Engines(body(20))
    async with engines.running() as port:
        cluster = Cluster(pools, endpoints, port)
        async with cluster.running() as api_port:
            with tempfile.TemporaryDirectory() as folder:
                picker = Picker(Path(folder), api_port, config)
                try:
                    await idle(picker, engines, pools, endpoints, seconds)
                    async with aiohttp.ClientSession() as client:
                        await pages(client, picker)
                    await rolled_out(picker, cluster, pools)
                finally:
                    picker.stop()


async def idle(picker: Picker, engines: Engines, pools: int, endpoints: int, seconds: float) -> None:
    whole = pools * endpoints
    scraped = await until(lambda: len(engines.asked[b"/metrics"]) == whole, picker, "scraping all")
    click.echo(f"{pools} pools of {endpoints} endpoints")
    click.echo(f"  every endpoint scraped after {scraped:.1f} s")
    models = engines.asked[b"/v1/models"]
    if models:
        listed = await until(lambda: len(models) == whole, picker, "asking all for their models")
        click.echo(f"  every endpoint's models known after {listed:.1f} s")
    await asyncio.sleep(min(3.0, seconds))
    answers, cpu, began = engines.answers, picker.cpu_s(), time.perf_counter()
    await asyncio.sleep(seconds)
    wall = time.perf_counter() - began
    cpu, answers = picker.cpu_s() - cpu, engines.answers - answers
    click.echo(
        f"  idle: {picker.memory_mb():.0f} MB, {cpu / wall:.2f} of a core, "
        f"{answers / wall:.0f} scrapes/s, one endpoint every {whole * wall / max(1, answers):.1f} s"
    )


async def rolled_out(picker: Picker, cluster: Cluster, pools: int) -> None:
    chosen = random.Random(1).sample(range(pools), min(pools, 100))
    known, cpu, began = picker.memory_mb(), picker.cpu_s(), time.perf_counter()
    for pool in chosen:
        cluster.replace_pods(pool)
        await asyncio.sleep(0.05)
    wall = time.perf_counter() - began
    click.echo(
        f"  {len(chosen)} roll-outs in {wall:.0f} s: {(picker.cpu_s() - cpu) / wall:.2f} of a core, "
        f"memory {picker.memory_mb() - known:+.0f} MB"
    )


def specs(pool: int, endpoints: int) -> list[EndpointSpec]:
    return [EndpointSpec(f"pod-{i}", f"10.{pool >> 8}.{pool & 255}.{i}", 8000) for i in range(endpoints)]


def routed(pools: int, endpoints: int, requests: int) -> tuple[float, float]:
    """Seconds to make a pool, and to choose an endpoint and end the request, in one of so many."""
    options = Options(
        transport="grpcio", secure_serving=False, tracing=False, web=WebOptions(auth=False),
        kube=KubeOptions(many=True),
    )  # fmt: skip
    app = App(options, PoolConfigs(preset()), {})
    many = app.many
    assert many is not None
    began = time.process_time()
    for pool in range(pools):
        view = many.pool_came(PoolSpec(namespace_of(pool), f"pool-{pool}", "app=x", (8000,)))
        view.set_endpoints(specs(pool, endpoints))
    made = (time.process_time() - began) / pools
    chance = random.Random(1)
    bodies = [chat_body(2, variant) for variant in range(32)]
    rounds = []
    for _ in range(6):
        chosen = [chance.randrange(pools) for _ in range(requests)]
        began = time.process_time()
        for number, pool in enumerate(chosen):
            head = RequestHead(
                method="POST",
                path="/v1/chat/completions",
                headers={"content-type": "application/json"},
                request_id=f"{number}",
                received_at=time.monotonic(),
                pool=f"{namespace_of(pool)}/pool-{pool}",
            )
            call = many.open(head)
            verdict = call.decide(bodies[number % 32])
            assert isinstance(verdict, Route), verdict
            call.answered(AnswerHead(status=200, at=time.monotonic()))
            call.end(Ending.NATURAL, Report())
        rounds.append((time.process_time() - began) / requests)
    return made, min(rounds)


async def choosing(pools: int, endpoints: int) -> None:
    alone, many = routed(1, endpoints, 2000), routed(pools, endpoints, 2000)
    click.echo(
        f"a pool is made in {many[0] * 1e3:.2f} ms; a request of 2 KB costs {alone[1] * 1e6:.0f} us in a "
        f"process of one pool, {many[1] * 1e6:.0f} us in one of {pools}, a pool at random each"
    )


@click.command(help=__doc__)
@click.option("--pools", default=1000, show_default=True)
@click.option("--endpoints", default=4, show_default=True, type=click.IntRange(1, 16))
@click.option("--seconds", default=20.0, show_default=True, help="Of looking on while nothing happens.")
@click.option("--config", type=click.Path(path_type=Path), help="EndpointPickerConfig of every pool.")
def main(pools: int, endpoints: int, seconds: float, config: Path | None) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(world(pools, endpoints, seconds, config))
    uvloop.run(choosing(pools, endpoints))


if __name__ == "__main__":
    main()
