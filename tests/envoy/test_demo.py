"""`epp demo` as a person runs it: every request answered, a table, nothing left behind."""

from __future__ import annotations

import asyncio
import fcntl
import json
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterator
from pathlib import Path

import pytest

from epp.cli.demo.ports import any_free

pytestmark = pytest.mark.envoy

ARGUMENTS = [sys.executable, "-m", "epp", "demo", "--seconds", "1", "--port"]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Two demos that look for free ports at the same moment find the same ones."""
    with (Path(tempfile.gettempdir()) / "epp-demo-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def running_in(directory: Path) -> list[str]:
    """Command lines of processes that name the directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if str(directory) in words:
            found.append(words.replace("\0", " "))
    return found


async def test_it_exits_with_a_table_when_all_was_answered(tmp_path: Path) -> None:
    results, temporary = tmp_path / "results", tmp_path / "tmp"
    temporary.mkdir()
    demo = await asyncio.create_subprocess_exec(
        *ARGUMENTS, str(any_free([])), "--exit", "--output", str(results),
        stdout=PIPE, stderr=STDOUT, env={"TMPDIR": str(temporary), "PATH": ""},
    )  # fmt: skip
    output, _ = await demo.communicate()
    text = output.decode()
    assert demo.returncode == 0, text
    for row in (
        "requests answered",
        "errors",
        "mean TTFT",
        "p99 TTFT",
        "cached tokens",
        "requests an engine",
    ):
        assert row in text
    for name in ("round-robin", "epp"):
        result = json.loads((results / f"{name}.json").read_text())
        assert result["completed"] > 0
        assert result["failed"] == 0
        assert all(pod.startswith("sim-") for pod in result["endpoints"])
    assert (results / "demo.svg").stat().st_size > 1000
    assert list(temporary.iterdir()) == []
    assert running_in(temporary) == []


async def test_an_interrupt_ends_everything(tmp_path: Path) -> None:
    demo = await asyncio.create_subprocess_exec(
        *ARGUMENTS, str(any_free([])), stdout=PIPE, stderr=STDOUT, env={"TMPDIR": str(tmp_path), "PATH": ""}
    )
    while not list(tmp_path.glob("*/envoy.yaml")):  # the last process is about to start
        assert demo.returncode is None
        await asyncio.sleep(0.02)
    assert running_in(tmp_path)
    demo.send_signal(signal.SIGINT)
    output, _ = await demo.communicate()
    assert demo.returncode == 130, output.decode()
    assert running_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
