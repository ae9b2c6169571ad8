"""`epp demo --overload`, the scene in real time through a real Envoy: what it promises holds."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from epp.cli.demo.overload.scene import BANDS
from epp.cli.demo.ports import any_free

from .test_demo import ARGUMENTS, alone, running_in

__all__ = ["alone"]
SECONDS = 6.0


@pytest.fixture(scope="module", autouse=True)
def transport() -> str:
    """The demo takes the one that is installed."""
    return "auto"


async def test_the_top_band_is_answered_the_others_are_told_to_come_back_and_all_recover(
    tmp_path: Path,
) -> None:
    results, temporary = tmp_path / "results", tmp_path / "tmp"
    temporary.mkdir()
    demo = await asyncio.create_subprocess_exec(
        *ARGUMENTS, str(any_free([])), "--overload", "--exit", "--seconds", str(SECONDS),
        "--output", str(results), stdout=PIPE, stderr=STDOUT, env={"TMPDIR": str(temporary), "PATH": ""},
    )  # fmt: skip
    output, _ = await demo.communicate()
    text = output.decode()
    assert demo.returncode == 0, text
    for band in BANDS:
        assert f"{band.name}: answered" in text
    told = json.loads((results / "overload.json").read_text())
    for run in ("without", "with queues"):
        assert sum(counts["failed"] for span in told[run].values() for counts in span.values()) == 0
    refusals = {
        band.name: sum(span[band.name]["refusals"] for span in told["with queues"].values()) for band in BANDS
    }
    assert refusals["interactive"] == 0
    assert sum(refusals.values()) > 0
    assert list(temporary.iterdir()) == []
    assert running_in(temporary) == []
