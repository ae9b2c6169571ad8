"""The first releases' filters: queues, caches and adapters."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from epp.datalayer.inflight import Ledger
from epp.plugins.classic import PLUGINS
from epp.scheduling.contract import BuildContext, Cycle
from tests import builders


def keep(
    type_name: str, seed: int = 0, model: str = "ad", parameters: Any = None, **columns: Any
) -> list[bool]:
    row = next(row for row in PLUGINS if row.type_name == type_name)
    plugin: Any = row.build(
        msgspec.convert(parameters or {}, row.parameters), BuildContext("x", {}.__getitem__)
    )
    pool = builders.snapshot(len(next(iter(columns.values()))), **columns)
    cycle = Cycle(
        request=builders.request(model=model), snapshot=pool, now=100.0, rng=Random(seed), inflight=Ledger()
    )
    answer: list[bool] = plugin.keep(cycle, np.arange(len(pool))).tolist()
    return answer


def test_low_queue_keeps_up_to_its_threshold() -> None:
    assert keep("low-queue-filter", waiting=[0, 128, 129]) == [True, True, False]
    assert keep("low-queue-filter", parameters={"threshold": 0}, waiting=[0, 1]) == [True, False]


@pytest.mark.parametrize(
    ("type_name", "column"), [("least-queue-filter", "waiting"), ("least-kv-cache-filter", "kv_used")]
)
@pytest.mark.parametrize(
    ("values", "kept"),
    [([0, 0, 0], [1, 1, 1]), ([0, 3, 9], [1, 1, 0]), ([0, 4, 9], [1, 0, 0]), ([5], [1]), ([2, 1], [0, 1])],
)
def test_least_keeps_the_first_part_of_the_range(
    type_name: str, column: str, values: list[float], kept: list[int]
) -> None:
    assert keep(type_name, **{column: values}) == [bool(one) for one in kept]


def test_the_adapter_filter_prefers_who_has_it_then_room_then_all() -> None:
    has, other = ("ad",), ("x", "y")
    both: dict[str, Any] = {"lora_running": [has, (), other], "lora_max": [2, 2, 2]}
    assert keep("lora-affinity-filter", **both) == [True, False, False]
    assert keep("lora-affinity-filter", parameters={"threshold": 0}, **both) == [False, True, False]
    assert keep("lora-affinity-filter", lora_waiting=[has, other], lora_max=[1, 2]) == [True, False]
    assert keep("lora-affinity-filter", lora_running=[other, ()], lora_max=[2, 2]) == [False, True]
    assert keep("lora-affinity-filter", lora_running=[other, other], lora_max=[2, 2]) == [True, True]


def test_now_and_then_room_is_taken() -> None:
    columns: dict[str, Any] = {"lora_running": [("ad",), ()], "lora_max": [2, 2]}
    kept = [
        keep("lora-affinity-filter", seed, parameters={"threshold": 0.9}, **columns) for seed in range(500)
    ]
    assert 0.05 < kept.count([False, True]) / len(kept) < 0.15
