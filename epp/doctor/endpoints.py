"""Model servers: their ports, and whether their metrics are an engine's that we can read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

from epp.datalayer.connection import HttpSource
from epp.datalayer.endpoints_file import SRV
from epp.datalayer.engines import ENGINES, Engine, EngineChoice, Reader, engine_of
from epp.doctor.finding import Finding, error, merged, ok, skipped, warning
from epp.doctor.web import FetchError, fetch
from epp.domain.endpoint import EndpointSpec

MAX_ENDPOINTS = 200
"""Looked at; of a larger pool the first ones."""
AT_ONCE = 20
CONNECT_S = 3.0
_SIGNALS = ("waiting", "running", "kv_used")
_MEANING = {
    "waiting": "how many requests wait",
    "running": "how many requests run",
    "kv_used": "how full the KV cache is",
    "cache_info": "the KV cache's size and blocks",
    "block_size": "the KV cache's block size",
    "num_blocks": "how many blocks the KV cache has",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """How metrics are read, as the configuration says."""

    source: HttpSource = field(default_factory=HttpSource)
    choice: EngineChoice = field(default_factory=EngineChoice)


@dataclass(slots=True)
class Looked:
    findings: list[Finding] = field(default_factory=list)
    skews: dict[str, float] = field(default_factory=dict)
    authorities: list[str] = field(default_factory=list)
    """`ip:port` of those that can be reached."""


async def check_endpoints(
    client: aiohttp.ClientSession, specs: Sequence[EndpointSpec], reading: Reading
) -> Looked:
    looked = Looked()
    places = asyncio.Semaphore(AT_ONCE)

    async def one(spec: EndpointSpec) -> list[Finding]:
        async with places:
            return await _endpoint(client, spec, reading, looked)

    found = await asyncio.gather(*(one(spec) for spec in specs[:MAX_ENDPOINTS]))
    looked.findings = merged(finding for findings in found for finding in findings)
    if len(specs) > MAX_ENDPOINTS:
        rest = len(specs) - MAX_ENDPOINTS
        looked.findings.append(skipped("endpoints", f"{rest} further ones are not looked at"))
    return looked


async def _endpoint(
    client: aiohttp.ClientSession, spec: EndpointSpec, reading: Reading, looked: Looked
) -> list[Finding]:
    if spec.address.startswith(SRV):
        return [skipped(f"endpoint {spec.address}", "a name of SRV records is not looked up here")]
    host = f"[{spec.address}]" if ":" in spec.address else spec.address
    at = f"{host}:{spec.port}"
    subject = f"endpoint {at}"
    why = await refused(spec.address, spec.port)
    if why:
        mend = "start the server, or correct the address, target port or NetworkPolicy"
        return [error(subject, f"its port cannot be reached: {why}", mend)]
    looked.authorities += await authorities(spec.address, spec.port)
    source, choice = reading.source, reading.choice
    metrics_port = spec.metrics_port or source.port or spec.port
    url = f"{source.scheme}://{host}:{metrics_port}{source.path}"
    try:
        answer = await fetch(client, url, tls=source.tls())
    except FetchError as problem:
        mend = (
            "open the metrics port to the picker, or name the right one (metricsPort, llm-d.ai/metrics-port)"
        )
        return [error(subject, f"no metrics at port {metrics_port}: {problem}", mend)]
    if answer.skew_s is not None:
        looked.skews[at] = answer.skew_s
    if answer.status != 200:
        mend = "let the picker read /metrics of the server: its load is not known without"
        return [error(subject, f"{source.path} at port {metrics_port} answers {answer.status}", mend)]
    expected = engine_of(spec.labels, choice.engines, label=choice.label, default=choice.default)
    return [judge(subject, expected, answer.body, choice.engines)]


def judge(subject: str, expected: Engine, body: bytes, engines: Mapping[str, Engine] = ENGINES) -> Finding:
    """What a body of metrics is worth; `expected` is the engine that the labels name, or the default."""
    found = detect(body, engines)
    if found is None:
        return error(
            subject,
            "its metrics are those of no engine that is known (vLLM, SGLang, TensorRT-LLM, Triton)",
            "let the server show its metrics (SGLang: --enable-metrics), or describe them in the "
            "configuration: core-metrics-extractor, engineConfigs",
        )
    if found is not expected and Reader(expected).read(body).missing:
        return error(
            subject,
            f"its metrics are {found.name}'s, and it is read as {expected.name}",
            f"label it llm-d.ai/engine-type: {found.name}",
        )
    found = expected if found is not expected else found
    load = Reader(found).read(body)
    missing = [_MEANING.get(name, name) for name in load.missing]
    if missing:
        return warning(
            subject,
            f"{found.name}'s metrics, without {', '.join(missing)}",
            "update the engine, or describe its metrics in the configuration: engineConfigs",
        )
    if load.lies:
        return warning(
            subject,
            f"{found.name}'s metrics, of which {', '.join(load.lies)} cannot be true",
            "look at the engine's /metrics: negative, giant or broken values are not used",
        )
    return ok(subject, f"{found.name}'s metrics")


def detect(body: bytes, engines: Mapping[str, Engine] = ENGINES) -> Engine | None:
    """Of the known engines the one most of whose signals are there."""
    best: tuple[int, Engine | None] = (0, None)
    for engine in engines.values():
        wanted = sum(1 for specs in (engine.waiting, engine.running, engine.kv_used) if specs)
        missing = set(Reader(engine).read(body).missing) & set(_SIGNALS)
        best = max(best, (wanted - len(missing), engine), key=lambda scored: scored[0])
    return best[1]


async def authorities(host: str, port: int) -> list[str]:
    """`ip:port` of every address of a host."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    ips = dict.fromkeys(str(row[4][0]) for row in found)
    return [f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in ips]


async def refused(host: str, port: int, *, timeout_s: float = CONNECT_S) -> str:
    """Why a port cannot be connected to; empty where it can."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no answer in {timeout_s:g} s"
    except ConnectionRefusedError:
        return "connection refused"
    except OSError as problem:
        number = problem.errno or 0  # less than 0 for a name that is not known, none for several addresses
        return os.strerror(number).lower() if number > 0 else str(problem)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""
