"""The processes of the gateway benchmark: upstream, pickers, a gateway for each pair that is measured.

Whoever is not measured stands still: an idle picker's scrapes would be paid by all others.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from gateway_cells import Cell
from stack import ROOT, Child, envoy, epp_serve, fetch, free_port

from epp.cli.envoyfile import Value

STREAM_CHUNKS = 200
CHUNK_BYTES = 205
"""One slice of the upstream's pacing: 4 KiB/s in 50 ms steps."""
CHUNKS_PER_S = 20
SETTLE_S = 0.3
"""After standing still: overdue health checks, scrapes, connections."""


@dataclass(frozen=True, slots=True)
class Picker:
    child: Child
    grpc: int
    health: int


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway, and the picker that it asks."""

    name: str
    port: int
    admin: int
    gateway: Child
    picker: Child | None
    together: Sequence[Child]
    """The picker and all its gateways: one that ran while the other stood still would find it dead."""

    def cpu_s(self) -> tuple[float, float]:
        return self.gateway.cpu_s(), self.picker.cpu_s() if self.picker else 0.0

    def sent_bytes(self) -> int:
        """What the gateway has sent to clients."""
        stats = fetch(f"http://127.0.0.1:{self.admin}/stats?filter=downstream_cx_tx_bytes_total")
        found = re.search(r"^http\.(?:plain|inference)\.\S+: (\d+)$", stats, re.MULTILINE)
        assert found is not None, stats
        return int(found[1])

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Outside of it neither the gateway nor its picker runs."""
        for child in self.together:
            child.resume()
        time.sleep(SETTLE_S)
        self.gateway.wait_for(self._answers)
        try:
            yield
        finally:
            for child in reversed(self.together):
                child.pause()

    def _answers(self) -> bool:
        """A gateway may hold its picker for dead for a moment."""
        asking = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(asking):
            asking.request("POST", "/v1/chat/completions", b'{"model": "bench", "messages": []}')
            return asking.getresponse().status == HTTPStatus.OK


class Stack:
    """Everything that the cells need, for those of their targets that are asked for."""

    def __init__(
        self,
        names: Sequence[str],
        cells: Sequence[Cell],
        endpoints: int,
        directory: Path,
        live: contextlib.ExitStack,
    ) -> None:
        self._directory = directory
        self._engines = [free_port() for _ in range(endpoints)]
        self._live = live
        self._start_upstream()
        self._pickers: dict[str, Picker] = {}
        self._together: dict[str, list[Child]] = {}
        self._targets: dict[tuple[str, Path], Target] = {}
        for cell in cells:
            for name in names:
                if name in cell.targets and _key(name, cell) not in self._targets:
                    self._targets[_key(name, cell)] = self._target(name, cell.config)

    def target(self, name: str, cell: Cell) -> Target:
        return self._targets[_key(name, cell)]

    def _target(self, name: str, config: Path) -> Target:
        served = None if name == "plain" else self._picker(name)
        port, admin = free_port(), free_port()
        if served is None:
            values: dict[str, Value] = {"admin": admin, "listener": port, "engine": self._engines[0]}
            gateway = self._envoy(ROOT / "bench/envoy/plain.yaml", values)
            picker = None
        else:
            values = {"admin": admin, "listener": port, "listener_address": "127.0.0.1"}
            values |= {"epp": served.grpc, "epp_health": served.health}
            gateway, picker = self._envoy(config, values), served.child
        together = self._together.setdefault(name, [picker] if picker else [])
        together.append(gateway)
        for child in reversed(together):
            child.pause()
        return Target(name, port, admin, gateway, picker, together)

    def _envoy(self, config: Path, values: dict[str, Value]) -> Child:
        return self._live.enter_context(envoy(config, values, self._directory))

    def _picker(self, name: str) -> Picker:
        """Runs when it is returned, so that its gateway finds it."""
        if (known := self._pickers.get(name)) is not None:
            for child in self._together[name]:
                child.resume()
            return known
        if name in ("responder", "canned"):
            grpc, health = free_port(), free_port()
            argv = [sys.executable, str(ROOT / f"bench/{name}.py"), "--port", str(grpc)]
            argv += ["--health-port", str(health), "--endpoint", f"127.0.0.1:{self._engines[0]}"]
            child = self._live.enter_context(Child(name, argv, self._directory / f"{name}.log"))
            child.wait_for(lambda: "ready" in child.output())
            picker = Picker(child, grpc, health)
        else:
            engines = [f"127.0.0.1:{port}" for port in self._engines]
            flags = ["--transport", "native" if name == "epp" else "grpcio"]
            served = epp_serve(engines, self._directory, flags=flags)
            self._live.callback(served.stop_now)
            picker = Picker(served.child, served.grpc, served.health)
        self._pickers[name] = picker
        return picker

    def _start_upstream(self) -> None:
        values: dict[str, Value] = {"admin": free_port(), "upstream": self._engines[0]}
        for name, content in _pages().items():
            path = self._directory / name
            path.write_bytes(content)
            values[name] = str(path)
        values["engines"] = self._engines[1:]
        self._envoy(ROOT / "bench/envoy/upstream.yaml", values)


def _key(name: str, cell: Cell) -> tuple[str, Path]:
    return name, Path() if name == "plain" else cell.config


def _pages() -> dict[str, bytes]:
    """What the upstream answers."""
    usage = {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}
    choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    answer = {"id": "x", "object": "chat.completion", "model": "bench", "choices": [choice], "usage": usage}
    event = f"data: {json.dumps({'choices': [{'delta': {'content': 'x' * 140}}]})}\n\n".encode()
    event = event[: -(len(event) - CHUNK_BYTES + 2) or None].ljust(CHUNK_BYTES - 2) + b"\n\n"
    gauges = {"num_requests_waiting": 0, "num_requests_running": 1, "kv_cache_usage_perc": 0.25}
    metrics = "".join(f'vllm:{name}{{model_name="bench"}} {value}\n' for name, value in gauges.items())
    return {
        "answer": json.dumps(answer).encode(),
        "stream": event * STREAM_CHUNKS,
        "models": json.dumps({"object": "list", "data": [{"id": "bench", "object": "model"}]}).encode(),
        "metrics": metrics.encode(),
    }
