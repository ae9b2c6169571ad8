"""bench/observe.py: what is not seen costs next to nothing in routing, on the demo's chats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import observe
import pytest
from click.testing import CliRunner
from policy_workloads import generated


def ttft(how: str, *, streamed: bool = True) -> tuple[float, float]:
    """Mean and 99th percentile over three minutes of the demo's chats, each with chats of its own."""
    outcomes = [
        observe.play(
            generated(observe.WORKLOADS["demo"], 8, 1.0, seed),
            how, engines=8, speed=1.0, seed=seed, minutes=1.0, streamed=streamed, profile=observe.DEMO,
        )
        for seed in (1, 2, 3)
    ]  # fmt: skip
    mean = np.mean([outcome.figures.ttft_mean_s for outcome in outcomes])
    return float(mean), float(np.mean([outcome.figures.ttft_p99_s for outcome in outcomes]))


def test_routing_is_as_good_as_with_every_answer_seen() -> None:
    """Virtual time: the same figures on every machine."""
    mean, p99 = ttft("all")
    for how in ("sampled", "ends"):
        unseen_mean, unseen_p99 = ttft(how)
        assert unseen_mean < 1.05 * mean, how
        assert unseen_p99 < 1.05 * p99, how
    blind, _ = ttft(observe.BLIND)
    assert blind > 1.2 * mean, "else the estimates would not be worth their cost"


@pytest.mark.parametrize("how", ["sampled", "ends"])
def test_answers_in_one_piece_are_prefilled_before_they_end(how: str) -> None:
    mean, _ = ttft("all")
    unseen_mean, _ = ttft(how, streamed=False)
    assert unseen_mean < 1.05 * mean


def test_the_table(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        observe.main,
        ["--minutes", "0.3", "--load", "1", "--seeds", "1", "--pickers", "2", "--out", f"{tmp_path}/o.json"],
    )
    assert done.exit_code == 0, done.output
    assert "blind" in done.output
    wrong = CliRunner().invoke(observe.main, ["--load", "x"])
    assert wrong.exit_code == 2
