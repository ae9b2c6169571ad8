"""What a picker costs a gateway: plain Envoy, Envoy + a logic-free grpc.aio picker, Envoy + epp, in one run.

    python bench/gateway.py [--quick] [--only epp,responder] [--config deploy/envoy/buffered.yaml]

In front of a native upstream (an Envoy that answers directly), so that the pickers are what is measured.
Every cell (connections x body size, then paced streams) is run for all targets in turn, several times over:
noise of the machine meets all alike, and ratios are taken within a turn. CPU is user + system time of a whole
process from /proc. Writes a table and out/bench-gateway.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import gateway_report
import wrk
from gateway_cells import Cell, Measured
from rich.console import Console
from rich.progress import Progress
from stack import DEPLOY, ROOT, Child, envoy, epp_serve, fetch, free_port

TARGETS = ("plain", "responder", "epp")
STREAM_CHUNKS = 200
CHUNK_BYTES = 205
"""One slice of the upstream's pacing: 4 KiB/s in 50 ms steps."""
CHUNKS_PER_S = 20
VARIANTS = 32
"""Different prompts a size, so that a prefix cache has something to tell apart."""


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway, and the picker that it asks."""

    name: str
    port: int
    admin: int
    gateway: Child
    picker: Child | None

    def cpu_s(self) -> tuple[float, float]:
        return self.gateway.cpu_s(), self.picker.cpu_s() if self.picker else 0.0

    def sent_bytes(self) -> int:
        """What the gateway has sent to clients."""
        stats = fetch(f"http://127.0.0.1:{self.admin}/stats?filter=downstream_cx_tx_bytes_total")
        found = re.search(r"^http\.(?:plain|inference)\.\S+: (\d+)$", stats, re.MULTILINE)
        assert found is not None, stats
        return int(found[1])


def chat_body(size_kb: float, variant: int) -> bytes:
    """An OpenAI chat request of about that size; variants differ from their first words on."""
    frame = {"model": "bench", "messages": [{"role": "user", "content": ""}]}
    room = max(8, int(size_kb * 1024) - len(json.dumps(frame)))
    words = f"{variant:03d} " + "the quick brown fox " * (room // 20 + 1)
    frame["messages"] = [{"role": "user", "content": words[:room]}]
    return json.dumps(frame).encode()


class Bench:
    """The stack: upstream, one gateway a target, pickers, request bodies on disk."""

    def __init__(
        self, names: Sequence[str], config: Path, endpoints: int, directory: Path, live: contextlib.ExitStack
    ) -> None:
        self.directory = directory
        ports = [free_port() for _ in range(endpoints)]
        self._start_upstream(ports, live)
        self.targets = [self._start_target(name, config, ports, live) for name in names]
        self._bodies: dict[float, list[Path]] = {}

    def _start_upstream(self, ports: Sequence[int], live: contextlib.ExitStack) -> None:
        usage = {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}
        choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
        answer = {
            "id": "x",
            "object": "chat.completion",
            "model": "bench",
            "choices": [choice],
            "usage": usage,
        }
        event = f"data: {json.dumps({'choices': [{'delta': {'content': 'x' * 140}}]})}\n\n".encode()
        event = event[: -(len(event) - CHUNK_BYTES + 2) or None].ljust(CHUNK_BYTES - 2) + b"\n\n"
        models = {"object": "list", "data": [{"id": "bench", "object": "model"}]}
        metrics = "\n".join(
            f'vllm:{name}{{model_name="bench"}} {value}'
            for name, value in (
                ("num_requests_waiting", 0),
                ("num_requests_running", 1),
                ("kv_cache_usage_perc", 0.25),
            )
        )
        files = {
            "answer": json.dumps(answer).encode(),
            "stream": event * STREAM_CHUNKS,
            "models": json.dumps(models).encode(),
            "metrics": f"{metrics}\n".encode(),
        }
        values: dict[str, int | str | list[int]] = {"admin": free_port(), "upstream": ports[0]}
        for name, content in files.items():
            path = self.directory / name
            path.write_bytes(content)
            values[name] = str(path)
        values["engines"] = list(ports[1:])
        live.enter_context(envoy(ROOT / "bench/envoy/upstream.yaml", values, self.directory))

    def _start_target(
        self, name: str, config: Path, engines: Sequence[int], live: contextlib.ExitStack
    ) -> Target:
        port, admin = free_port(), free_port()
        if name == "plain":
            values = {"admin": admin, "listener": port, "engine": engines[0]}
            gateway = live.enter_context(envoy(ROOT / "bench/envoy/plain.yaml", values, self.directory))
            return Target(name, port, admin, gateway, None)
        if name == "responder":
            grpc, health = free_port(), free_port()
            argv = [sys.executable, str(ROOT / "bench/responder.py"), "--port", str(grpc)]
            argv += ["--health-port", str(health), "--endpoint", f"127.0.0.1:{engines[0]}"]
            picker = live.enter_context(Child("responder", argv, self.directory / "responder.log"))
            picker.wait_for(lambda: "ready" in picker.output())
        else:
            served = epp_serve([f"127.0.0.1:{port}" for port in engines], self.directory)
            live.callback(served.stop_now)
            picker, grpc, health = served.child, served.grpc, served.health
        filled = {"admin": admin, "listener": port, "listener_address": "127.0.0.1"}
        filled |= {"epp": grpc, "epp_health": health}
        gateway = live.enter_context(envoy(config, filled, self.directory))
        return Target(name, port, admin, gateway, picker)

    def bodies(self, size_kb: float) -> list[Path]:
        if size_kb not in self._bodies:
            paths = []
            for variant in range(VARIANTS):
                path = self.directory / f"body-{size_kb:g}-{variant}"
                path.write_bytes(chat_body(size_kb, variant))
                paths.append(path)
            self._bodies[size_kb] = paths
        return self._bodies[size_kb]

    def measure(self, target: Target, cell: Cell, turn: int, seconds: int) -> Measured:
        if cell.stream:
            return self._measure_streams(target, cell, turn, seconds)
        before = target.cpu_s()
        load = wrk.start(
            target.port, self.bodies(cell.body_kb), connections=cell.connections, seconds=seconds
        )
        seen = wrk.result(load)
        spent = [(b - a) * 1e6 / max(seen.requests, 1) for a, b in zip(before, target.cpu_s(), strict=True)]
        return Measured(
            target.name,
            cell,
            turn,
            seen.requests,
            seen.seconds,
            seen.p50_ms,
            seen.p99_ms,
            seen.errors,
            *spent,
        )

    def _measure_streams(self, target: Target, cell: Cell, turn: int, seconds: int) -> Measured:
        """CPU a chunk in the middle of streams that are all open; bytes sent tell chunks."""
        seconds = max(3, min(seconds * 2, STREAM_CHUNKS // CHUNKS_PER_S - 3))
        load = wrk.start(
            target.port,
            self.bodies(cell.body_kb),
            connections=cell.connections,
            seconds=seconds + 2,
            stream=True,
        )
        time.sleep(1.0)
        before, sent, began = target.cpu_s(), target.sent_bytes(), time.monotonic()
        time.sleep(seconds)
        after, window = target.cpu_s(), time.monotonic() - began
        framing = len(f"{CHUNK_BYTES:x}\r\n\r\n")
        chunks = max(target.sent_bytes() - sent, 1) / (CHUNK_BYTES + framing)
        seen = wrk.result(load)
        spent = [(b - a) * 1e6 / chunks for a, b in zip(before, after, strict=True)]
        return Measured(target.name, cell, turn, chunks, window, 0.0, 0.0, seen.errors, *spent)

    def idle_us_per_s(self, seconds: float = 2.0) -> dict[str, float]:
        """What each picker costs while nobody asks (epp scrapes its pool), in CPU us a second."""
        before = {target.name: target.cpu_s()[1] for target in self.targets if target.picker}
        time.sleep(seconds)
        return {t.name: (t.cpu_s()[1] - before[t.name]) * 1e6 / seconds for t in self.targets if t.picker}


def cells(quick: bool) -> list[Cell]:
    if quick:
        return [Cell(16, 0.1), Cell(16, 32), Cell(16, 0.1, stream=True)]
    loads = [Cell(connections, kb) for kb in (0.1, 32, 400) for connections in (1, 16, 64)]
    return [*loads, Cell(16, 0.1, stream=True), Cell(64, 0.1, stream=True)]


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Three cells, two short turns: under a minute.")
@click.option("--only", default=",".join(TARGETS), show_default=True, help="Targets, comma separated.")
@click.option("--seconds", default=3, show_default=True, type=click.IntRange(1), help="Length of one run.")
@click.option(
    "--turns", default=3, show_default=True, type=click.IntRange(1), help="Interleaved repetitions."
)
@click.option(
    "--endpoints", default=8, show_default=True, type=click.IntRange(2, 64), help="Upstream endpoints."
)
@click.option(
    "--config",
    default=DEPLOY / "standalone.yaml",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Envoy configuration under test.  [default: deploy/envoy/standalone.yaml]",
)
@click.option(
    "--out", default=ROOT / "out/bench-gateway.json", type=click.Path(path_type=Path), help="JSON result."
)
def main(quick: bool, only: str, seconds: int, turns: int, endpoints: int, config: Path, out: Path) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    names = [name for name in TARGETS if name in only.split(",")]
    if unknown := set(only.split(",")) - set(TARGETS):
        raise click.BadParameter(
            f"{', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}", param_hint="--only"
        )
    if not wrk.installed():
        raise click.ClickException(wrk.HOW_TO_INSTALL)
    if quick:
        seconds, turns = min(seconds, 2), min(turns, 2)
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="epp-bench-") as directory, contextlib.ExitStack() as live:
        bench = Bench(names, config, endpoints, Path(directory), live)
        for target in bench.targets:  # connections, code paths and caches warm
            bench.measure(target, Cell(16, 0.1), -1, 1)
        idle = bench.idle_us_per_s()
        loads = cells(quick)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("", total=turns * len(loads) * len(bench.targets))
            for turn in range(turns):
                for cell in loads:
                    shift = turn % len(bench.targets)
                    for target in bench.targets[shift:] + bench.targets[:shift]:
                        progress.update(task, description=f"{cell.name}, {target.name}")
                        measured.append(bench.measure(target, cell, turn, seconds))
                        progress.advance(task)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    about = {
        "machine": machine,
        "envoy_config": config.name,
        "endpoints": endpoints,
        "seconds": seconds,
        "turns": turns,
    }
    console.print(gateway_report.tables(measured, idle, about))
    out.parent.mkdir(parents=True, exist_ok=True)
    runs = [{**asdict(m), "per_s": m.per_s} for m in measured]
    ratios = gateway_report.ratios(measured)
    out.write_text(json.dumps({**about, "idle_us_per_s": idle, "ratios": ratios, "runs": runs}, indent=1))
    console.print(f"written: {out}")
    if any(m.errors for m in measured):
        raise click.ClickException("some requests failed: see the errors column")


if __name__ == "__main__":
    main()
