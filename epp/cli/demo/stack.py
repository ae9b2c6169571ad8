"""Starts the demo's processes in order and says when each can take requests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from epp.cli.demo import gateway
from epp.cli.demo.ports import HOST, Ports
from epp.cli.demo.processes import Child, ChildError, Children
from epp.config.presets import DEFAULT, PRESETS
from epp.load.fetch import request
from epp.load.transport import Pool, Target, TransportError

ENGINES = 8
READY_WITHIN_S = 45.0
"""A cold Python start on a busy two-core machine takes a few seconds; this is for the worst."""
_POLL_S = 0.05
_ME = (sys.executable, "-m", "epp")


@dataclass(frozen=True, slots=True)
class Stack:
    """Where everything is."""

    engines: list[int]
    gateway: gateway.Ports
    metrics: int
    config: Path

    @property
    def picked_url(self) -> str:
        return f"http://{HOST}:{self.gateway.picked}"

    @property
    def round_robin_url(self) -> str:
        return f"http://{HOST}:{self.gateway.round_robin}"

    @property
    def epp_url(self) -> str:
        """Metrics, health and debug pages of epp."""
        return f"http://{HOST}:{self.metrics}"


def choose(ports: Ports, directory: Path, first: int) -> Stack:
    """Ports for all parts: the gateway on `first` and the next, the others where they usually are."""
    return Stack(
        engines=ports.row(8100, ENGINES, "the engines"),
        gateway=gateway.Ports(
            picked=ports.one(first, "the gateway"),
            round_robin=ports.one(first + 1, "the round-robin gateway"),
            admin=ports.one(19000, "Envoy's admin page"),
            epp=ports.one(9002, "epp"),
            epp_health=ports.one(9003, "epp's health service"),
        ),
        metrics=ports.one(9090, "epp's metrics page"),
        config=directory / "epp.yaml",
    )


def epp_config(endpoints: Path) -> str:
    """epp's default policy over an endpoints file, as YAML."""
    return yaml.safe_dump(epp_document(endpoints), sort_keys=False)


def epp_document(endpoints: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(PRESETS[DEFAULT].text)
    discovery = {"name": "engines", "type": "file-discovery", "parameters": {"path": str(endpoints)}}
    document["plugins"].insert(0, discovery)
    document.setdefault("dataLayer", {})["discovery"] = {"pluginRef": "engines"}
    return document


async def start(stack: Stack, children: Children, envoy: Path, engine_options: Sequence[str]) -> None:
    """Engines, epp, Envoy; each is ready before the next starts. Raises ChildError."""
    endpoints = children.directory / "endpoints.yaml"
    await start_engines(children, stack.engines, endpoints, engine_options)
    stack.config.write_text(epp_config(endpoints), encoding="utf-8")
    ports = stack.gateway
    await start_picker(children, "epp", stack.config, ports, stack.metrics)
    text = gateway.configuration(ports, stack.engines)
    proxy = await start_gateway(children, "envoy", envoy, text, ports.round_robin)
    await until(proxy, children, lambda: answers(ports.picked, "/v1/models"), "Envoy to reach epp")


async def start_engines(
    children: Children, ports: Sequence[int], endpoints: Path, options: Sequence[str]
) -> None:
    """On consecutive ports, and the file that names them. Raises ChildError."""
    arguments = [f"--port={ports[0]}", f"--count={len(ports)}", f"--endpoints-out={endpoints}", *options]
    engines = await children.start("engines", [*_ME, "sim", *arguments])
    await until(engines, children, lambda: _all_answer(ports, "/health"), "the engines")


async def start_picker(
    children: Children, name: str, config: Path, ports: gateway.Ports, metrics: int, *flags: str
) -> None:
    """`epp serve`, ready. Raises ChildError."""
    arguments = [
        f"--config-file={config}",
        f"--bind-address={HOST}",
        f"--grpc-port={ports.epp}",
        f"--grpc-health-port={ports.epp_health}",
        f"--metrics-port={metrics}",
        "--secure-serving=false",
        "--metrics-endpoint-auth=false",
        "--pool-name=demo",
        *flags,
    ]
    epp = await children.start(name, [*_ME, "serve", *arguments])
    await until(epp, children, lambda: answers(metrics, "/readyz"), f"{name} to be ready")


async def start_gateway(
    children: Children, name: str, envoy: Path, configuration: str, port: int, path: str = "/v1/models"
) -> Child:
    """An Envoy that answers on one of its ports. Raises ChildError."""
    settings = children.directory / f"{name}.yaml"
    settings.write_text(configuration, encoding="utf-8")
    # No hot restart: it would share memory with any other Envoy on this machine. One worker: two cores have
    # six processes to run, and one worker's round robin is strict.
    arguments = ["-c", str(settings), "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    proxy = await children.start(name, [str(envoy), *arguments])
    await until(proxy, children, lambda: answers(port, path), "Envoy")
    return proxy


async def forget_prefixes(stack: Stack) -> None:
    """Empties every engine's prefix cache, by vLLM's own request for that. Raises ChildError."""
    for port in stack.engines:
        status, _ = await _once(port, "POST", "/reset_prefix_cache")
        if status != 200:
            raise ChildError(f"the engine on port {port} did not reset its prefix cache: status {status}")


async def answers(port: int, path: str) -> bool:
    """200 to a GET within a second."""
    try:
        status, _ = await _once(port, "GET", path)
    except (TransportError, TimeoutError):
        return False
    return status == 200


async def _all_answer(ports: Sequence[int], path: str) -> bool:
    return all(await asyncio.gather(*(answers(port, path) for port in ports)))


async def _once(port: int, method: str, path: str) -> tuple[int, bytes]:
    pool = Pool(Target(HOST, port, tls=False, prefix=""), connect_timeout_s=1.0)
    try:
        return await request(pool, method, path, timeout_s=1.0)
    finally:
        await pool.close()


async def until(child: Child, children: Children, ready: Callable[[], Awaitable[bool]], what: str) -> None:
    """Asks again and again. Raises ChildError when the child ends or READY_WITHIN_S pass first."""
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            while not await ready():
                if child.process.returncode is not None:
                    raise children.death_of(child)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise ChildError(f"waited {READY_WITHIN_S:.0f} s in vain for {what}\n{child.last_lines()}") from None
