"""bench/policy.py: the same figures every time, every request accounted for, wrong options named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import policy
import pytest
from click.testing import CliRunner, Result


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(policy.main, arguments)


def figures(out: Path, *arguments: str) -> list[dict[str, Any]]:
    """Of all runs, without what depends on the machine."""
    done = bench("--out", str(out), *arguments)
    assert done.exit_code == 0, done.output
    runs: list[dict[str, Any]] = json.loads(out.read_text())["runs"]
    return [{key: run[key] for key in run if not key.startswith("decision")} for run in runs]


def trace(path: Path, lines: list[tuple[int, int, list[int]]]) -> Path:
    """(timestamp in ms, prompt tokens, ids), answers of 8 tokens."""
    path.write_text(
        "".join(
            json.dumps({"timestamp": at, "input_length": size, "output_length": 8, "hash_ids": ids}) + "\n"
            for at, size, ids in lines
        )
    )
    return path


def test_two_runs_give_the_same_figures(tmp_path: Path) -> None:
    arguments = ("--workload", "groups", "--minutes", "0.1", "--load", "1,3", "--pickers", "2", "--seed", "7")
    first = figures(tmp_path / "a.json", *arguments)
    assert first == figures(tmp_path / "b.json", *arguments)
    assert [(run["load"], run["policy"]) for run in first] == [
        (load, policy)
        for load in (1.0, 3.0)
        for policy in ("round-robin", "least-requests", "reference", "expected-work")
    ]
    for run in first:
        assert sum(run["engine_requests"]) == run["requests"] == first[0]["requests"] > 0


def test_picker_and_engines_agree_on_what_a_trace_shares(tmp_path: Path) -> None:
    """Two prefixes, each asked for again long after: a policy by prefix sends both back and all is cached."""
    shared, other = list(range(1, 9)), list(range(11, 19))
    file = trace(
        tmp_path / "t.jsonl",
        [(0, 4096, shared), (1_000, 4096, other), (5_000, 4608, [*shared, 9]), (10_000, 4608, [*other, 19])],
    )
    [run] = figures(tmp_path / "a.json", "--trace", str(file), "--load", "1", "--policy", "expected-work")
    assert run["cached_share"] == pytest.approx(2 * 4096 / (2 * 4096 + 2 * 4608))
    assert sorted(run["engine_requests"]) == [0] * 6 + [2, 2]


def test_what_is_too_long_for_the_profile_is_counted(tmp_path: Path) -> None:
    file = trace(tmp_path / "t.jsonl", [(0, 512, [1]), (100, 140_000, [2])])
    [run] = figures(tmp_path / "a.json", "--trace", str(file), "--load", "1", "--policy", "round-robin")
    assert (run["requests"], run["refused"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--policy", "best"), "unknown policy 'best'"),
        (("--load", "1,0"), "factors above 0"),
        (("--slow", "8=2"), "there is no engine 8"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], words: str) -> None:
    done = bench(*arguments)
    assert done.exit_code == 2
    assert words in done.output
