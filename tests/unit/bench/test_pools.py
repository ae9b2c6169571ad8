"""bench/pools.py: a picker of a few pools in the world that the benchmark makes for it."""

from __future__ import annotations

import pools
from click.testing import CliRunner


def test_every_figure_is_there() -> None:
    arguments = ["--pools", "3", "--endpoints", "2", "--seconds", "0.2"]
    result = CliRunner().invoke(pools.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.output.splitlines()]
    assert lines[0] == "3 pools of 2 endpoints"
    assert [line.split()[0] for line in lines[1:]] == [
        "every", "every", "idle:", "/metrics", "/debug/pools", "/debug/flowcontrol", "3", "a",
    ]  # fmt: skip
    assert "3 roll-outs" in lines[7]
    assert "in one of 3, a pool at random each" in lines[8]
