"""The load of the gateway benchmark: wrk, a native closed-loop generator, its result read as a value."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("wrk.lua")
HOW_TO_INSTALL = (
    "the load generator wrk is not installed.\n"
    "  Debian, Ubuntu: sudo apt-get install wrk      Fedora: sudo dnf install wrk\n"
    "  Alpine: apk add wrk                           macOS: brew install wrk"
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of wrk saw. Latencies are of whole answers."""

    requests: int
    seconds: float
    bytes: int
    bad_status: int
    failed: int
    timeouts: int
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def errors(self) -> int:
        return self.bad_status + self.failed + self.timeouts


def installed() -> bool:
    return shutil.which("wrk") is not None


def start(
    port: int, bodies: Sequence[Path], *, connections: int, seconds: int, stream: bool = False
) -> subprocess.Popen[str]:
    """One thread, `connections` kept-alive connections, the bodies in turn."""
    wrk = shutil.which("wrk")
    assert wrk is not None, HOW_TO_INSTALL
    argv = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(SCRIPT)]
    argv += [f"http://127.0.0.1:{port}", "--", *(["stream"] if stream else []), *map(str, bodies)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def result(process: subprocess.Popen[str]) -> Result:
    """Waits for the end. Raises RuntimeError with wrk's words if it printed no result."""
    output, _ = process.communicate()
    for line in output.splitlines():
        if line.startswith("RESULT "):
            return Result(**json.loads(line.removeprefix("RESULT ")))
    raise RuntimeError(f"wrk: {output.strip()}")
