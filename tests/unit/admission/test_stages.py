"""The fuller of prefill and decode."""

from __future__ import annotations

import numpy as np
import pytest

from epp.admission.saturation import (
    ConcurrencyDetector,
    ConcurrencyParameters,
    RoomGiver,
    SaturationDetector,
    UtilizationDetector,
    UtilizationParameters,
)
from epp.admission.stages import StagedDetector
from epp.datalayer.inflight import Ledger
from epp.domain.snapshot import Snapshot
from tests import builders

NOW = 100.0


def pool(*roles: str | None, waiting: list[float]) -> Snapshot:
    labels = [{} if role is None else {"llm-d.ai/role": role} for role in roles]
    endpoints = [builders.endpoint(i, labels=label) for i, label in enumerate(labels)]
    return builders.snapshot(endpoints=endpoints, waiting=waiting)


def of(snapshot: Snapshot, rows: list[int] | None = None) -> dict[str, float]:
    staged = StagedDetector(UtilizationDetector(UtilizationParameters()))
    chosen = np.asarray(range(len(snapshot)) if rows is None else rows, dtype=np.intp)
    stages = dict(staged.by_stage(snapshot, chosen, Ledger(), NOW))
    effective = staged.saturation(snapshot, chosen, Ledger(), NOW)
    assert effective == max(stages.values(), default=1.0)
    assert staged.room(snapshot, chosen, Ledger(), NOW).saturation() == effective
    return stages


def test_each_stage_is_measured_apart() -> None:
    split = pool("prefill", "decode", "decode", waiting=[5, 1, 2])
    assert of(split) == pytest.approx({"prefill": 1.0, "decode": 0.3})
    assert of(split, [1, 2]) == pytest.approx({"decode": 0.3})


def test_an_endpoint_that_does_both_counts_in_both_and_one_without_a_role_decodes() -> None:
    assert of(pool("both", None, waiting=[5, 0])) == {"prefill": 1.0, "decode": 0.5}
    assert of(pool(None, None, waiting=[5, 0])) == {"decode": 0.5}


def test_nobody_to_serve_is_full() -> None:
    assert of(pool("encode", waiting=[0])) == {}
    assert of(builders.snapshot(0)) == {}


def test_a_request_fills_both_stages() -> None:
    staged = StagedDetector(ConcurrencyDetector(ConcurrencyParameters(max_concurrency=2)))
    assert isinstance(staged, SaturationDetector)
    assert isinstance(staged, RoomGiver)
    split = pool("prefill", "decode", "decode", waiting=[0, 0, 0])
    room = staged.room(split, np.arange(3), Ledger(), NOW)
    room.take(1, 0)
    assert room.saturation() == 0.5
    room.take(1, 0)
    assert room.saturation() == 1.0


def test_the_split_follows_the_pool() -> None:
    staged = StagedDetector(UtilizationDetector(UtilizationParameters()))
    for roles, expected in [(("prefill", "decode"), 1.0), (("decode", "decode"), 0.5)]:
        snapshot = pool(*roles, waiting=[5, 0])
        assert staged.saturation(snapshot, np.arange(2), Ledger(), NOW) == expected
