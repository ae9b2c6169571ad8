"""What scraping costs: many endpoints against a native responder (a real Envoy that answers directly).

    .venv/bin/python bench/scrape.py [--endpoints 1000] [--seconds 4] [--budget 0.2]

Prints, for a small body and one as large as a vLLM server's: the interval reached, the share of one core, CPU
microseconds a scrape (as the pace reckons, and of the whole process), and how old the readings are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import uvloop

from epp.datalayer.connection import HttpSource
from epp.datalayer.pace import Pace
from epp.datalayer.scrape import Scraper
from epp.datalayer.store import Store
from epp.domain.endpoint import EndpointSpec

ENVOY = Path(sys.executable).parent / "envoy"
MODEL = 'engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"'


def body(histograms: int) -> bytes:
    """A vLLM server's metrics: its gauges, `histograms` histograms of 22 buckets, the two info metrics."""
    rng = Random(1)
    lines = [
        "# HELP python_gc_objects_collected_total Objects collected",
        "python_gc_objects_collected_total 12.0",
    ]
    for name, value in (
        ("num_requests_running", 7),
        ("num_requests_waiting", 2),
        ("kv_cache_usage_perc", 0.4),
    ):
        lines += [f"# HELP vllm:{name} x", f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{MODEL}}} {value}"]
    for number in range(histograms):
        name = f"vllm:histogram_{number}_seconds"
        lines += [f"# HELP {name} Histogram {number} in seconds.", f"# TYPE {name} histogram"]
        lines += [f'{name}_bucket{{{MODEL},le="{i / 10}"}} {rng.randrange(10**6)}.0' for i in range(22)]
        lines += [f"{name}_sum{{{MODEL}}} 1234.5678", f"{name}_count{{{MODEL}}} 4242.0"]
    lines += [f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="27000",{MODEL}}} 1.0']
    lora = 'max_lora="4",running_lora_adapters="sql,chat",waiting_lora_adapters=""'
    lines += [f"vllm:lora_requests_info{{{lora}}} 1.7e9"]
    return ("\n".join(lines) + "\n").encode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def envoy_config(address: str, port: int, bodies: dict[str, Path]) -> dict[str, object]:
    routes = [
        {"match": {"path": path}, "direct_response": {"status": 200, "body": {"filename": str(file)}}}
        for path, file in bodies.items()
    ]
    http = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
        "HttpConnectionManager",
        "stat_prefix": "metrics",
        "route_config": {
            "max_direct_response_body_size_bytes": 1 << 20,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    listener = {
        "name": "metrics",
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}],
    }
    return {"static_resources": {"listeners": [listener]}}


@asynccontextmanager
async def responder(bodies: dict[str, bytes], address: str = "127.0.0.1") -> AsyncIterator[int]:
    """A native server of the bodies by path, on one worker; yields its port."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for number, (path, content) in enumerate(bodies.items()):
            files[path] = Path(folder) / f"body-{number}"
            files[path].write_bytes(content)
        port = free_port()
        config = Path(folder) / "envoy.json"
        config.write_text(json.dumps(envoy_config(address, port, files)))
        arguments = [ENVOY, "-c", config, "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
        process = subprocess.Popen(arguments)
        try:
            for _ in range(100):
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.1)
            yield port
        finally:
            process.terminate()
            process.wait(10)


async def measure(name: str, port: int, source_path: str, options: argparse.Namespace) -> None:
    store = Store()
    specs = [EndpointSpec(f"engine-{i}", "127.0.0.1", port) for i in range(options.endpoints)]
    store.set_endpoints(specs, time.monotonic())
    scraper = Scraper(pace=Pace(budget=options.budget), rng=Random(1))
    scraper.join(store, source=HttpSource(path=source_path))
    task = asyncio.create_task(scraper.run())
    await asyncio.sleep(3.0)  # connections, first costs
    began, cpu, before = time.perf_counter(), time.process_time(), scraper.scrapes
    await asyncio.sleep(options.seconds)
    wall, cpu, done = time.perf_counter() - began, time.process_time() - cpu, scraper.scrapes - before
    state = scraper.state(time.monotonic())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    print(
        f"{name:>16}  {state.answering:>9}  {done / wall:>9.0f}  {state.interval_s * 1e3:>8.0f}  "
        f"{options.endpoints * wall / max(1, done) * 1e3:>10.0f}  {cpu / wall:>5.2f}  "
        f"{cpu / max(1, done) * 1e6:>10.0f}  {state.cost_s * 1e6:>11.0f}  "
        f"{state.mean_age_s * 1e3:>8.0f}  {state.max_age_s * 1e3:>7.0f}"
    )


async def main(options: argparse.Namespace) -> None:
    small, large = body(1), body(20)
    async with responder({"/small": small, "/large": large}) as port:
        print(f"{options.endpoints} endpoints, budget {options.budget} of a core, {options.seconds} s each")
        print(
            "            body  answering  scrapes/s  interval    measured  cores  us/scrape"
            "   as reckoned  mean age  max age"
        )
        await measure(f"{len(small)} B", port, "/small", options)
        await measure(f"{len(large)} B", port, "/large", options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--budget", type=float, default=0.2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(parser.parse_args()))
