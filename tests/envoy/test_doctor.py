"""`epp doctor` at the side of a real stack: nothing wrong with ours, and what goes wrong is found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from bench.stack import BIN

from .rig import Rig, rig


@pytest_asyncio.fixture
async def stack(transport: str, tmp_path: Path) -> AsyncIterator[tuple[Rig, Path]]:
    async with rig(tmp_path, "standalone.yaml", engines=2) as running:
        yield running, tmp_path


async def doctor(*arguments: str) -> tuple[int | None, list[dict[str, Any]]]:
    argv = [str(BIN / "epp"), "doctor", "--output", "json", *arguments]
    asking = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    told, _ = await asking.communicate()
    return asking.returncode, json.loads(told)


def around(running: Rig, directory: Path) -> list[str]:
    (endpoints,) = directory.glob("endpoints-*.yaml")
    return [
        "--endpoints-file", str(endpoints),
        "--envoy-admin", f"http://127.0.0.1:{running.admin}",
        "--picker", f"127.0.0.1:{running.epp.grpc}",
        "--picker-health", f"127.0.0.1:{running.epp.health}",
        "--gateway", f"http://127.0.0.1:{running.port}",
    ]  # fmt: skip


async def test_a_stack_that_is_well(stack: tuple[Rig, Path]) -> None:
    running, directory = stack
    status, findings = await doctor(*around(running, directory), "--model", "base")
    assert [one for one in findings if one["level"] in ("error", "skipped")] == []
    assert status == 0
    addresses = [engine.address for engine in running.engines]
    (answered,) = [one for one in findings if one["subject"].startswith("request through")]
    assert answered["found"] in [f"answered by {address}" for address in addresses]
    # One request, one that names its endpoint, and with the conformance suite's header one for an endpoint
    # after the other, until another one answers.
    assert sum(running.by_port().values()) in (3, 4)
    await running.idle()


async def test_a_stack_whose_servers_are_away(stack: tuple[Rig, Path]) -> None:
    running, directory = stack
    for engine in running.engines:
        await engine.stop()
    status, findings = await doctor(*around(running, directory), "--model", "base")
    errors = {one["subject"]: one for one in findings if one["level"] == "error"}
    assert status == 1
    assert all(one["mend"] for one in errors.values())
    assert any(subject.startswith("endpoint ") for subject in errors)
    assert any(subject.startswith("request through") for subject in errors)
