"""Label selectors, roles, and a header that names a label's value."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from epp.datalayer.inflight import Ledger
from epp.scheduling.contract import Cycle
from tests.builders import endpoint, request, snapshot
from tests.laws.world import build

POOL: list[dict[str, str]] = [{"zone": "a", "gpu": "h100"}, {"zone": "b"}, {}, {"zone": "c", "gpu": ""}]


def cycle_of(labels: list[dict[str, str]], headers: dict[str, str] | None = None) -> Cycle:
    pool = snapshot(endpoints=[endpoint(i, labels=given) for i, given in enumerate(labels)])
    return Cycle(request=request(headers=headers), snapshot=pool, now=0.0, rng=Random(1), inflight=Ledger())


def kept(name: str, labels: list[dict[str, str]], **parameters: Any) -> list[int]:
    cycle = cycle_of(labels)
    answer = build(name, **parameters).keep(cycle, np.arange(len(labels)))
    return [int(row) for row in np.flatnonzero(answer)]


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


@pytest.mark.parametrize("name", ["label-selector-filter", "by-label-selector"])
@pytest.mark.parametrize(
    ("labels", "expressions", "rows"),
    [
        ({}, [], [0, 1, 2, 3]),
        ({"zone": "a"}, [], [0]),
        ({"zone": "a", "gpu": "h100"}, [], [0]),
        ({"zone": "b", "gpu": "h100"}, [], []),
        ({"gpu": ""}, [], [3]),
        ({}, [expression("zone", "In", "a", "c")], [0, 3]),
        ({}, [expression("zone", "NotIn", "a")], [1, 2, 3]),
        ({}, [expression("gpu", "Exists")], [0, 3]),
        ({}, [expression("gpu", "DoesNotExist")], [1, 2]),
        ({"zone": "c"}, [expression("gpu", "Exists")], [3]),
        ({}, [expression("gpu", "Exists"), expression("zone", "NotIn", "c")], [0]),
    ],
)
def test_selector(name: str, labels: dict[str, str], expressions: list[Any], rows: list[int]) -> None:
    assert kept(name, POOL, matchLabels=labels, matchExpressions=expressions) == rows


@pytest.mark.parametrize("bad", [expression("a", "In"), expression("a", "Exists", "b")])
def test_selector_that_makes_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="values"):
        build("label-selector-filter", matchExpressions=[bad])


@pytest.mark.parametrize(
    ("parameters", "rows"),
    [
        ({"validValues": ["a", "b"]}, [0, 1]),
        ({"validValues": ["a"], "allowsNoLabel": True}, [0, 2]),
        ({"allowsNoLabel": True}, [2]),
    ],
)
def test_by_label(parameters: dict[str, Any], rows: list[int]) -> None:
    assert kept("by-label", POOL, label="zone", **parameters) == rows


def test_by_label_that_would_drop_all() -> None:
    with pytest.raises(ValueError, match="drop every endpoint"):
        build("by-label", label="zone")


ROLES = (
    "", "encode", "prefill", "decode", "encode-prefill", "encode-decode", "prefill-decode",
    "encode-prefill-decode", "both", "odd",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("decode-filter", {"", "decode", "prefill-decode", "both", "encode-prefill-decode"}),
        ("prefill-filter", {"prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"}),
        ("encode-filter", {"encode", "encode-prefill", "encode-prefill-decode"}),
    ],
)
def test_roles(name: str, roles: set[str]) -> None:
    labels = [{"llm-d.ai/role": role} if role else {} for role in ROLES]
    assert {ROLES[row] for row in kept(name, labels)} == roles


def test_labels_are_read_anew_when_the_pool_changes() -> None:
    plugin = build("decode-filter")
    before = cycle_of([{"llm-d.ai/role": "decode"}, {"llm-d.ai/role": "prefill"}])
    after = cycle_of([{"llm-d.ai/role": "prefill"}, {"llm-d.ai/role": "decode"}])
    assert plugin.keep(before, np.arange(2)).tolist() == [True, False]
    assert plugin.keep(after, np.arange(2)).tolist() == [False, True]


@pytest.mark.parametrize(
    ("headers", "scores"),
    [({"x-zone": "b"}, [0, 1, 0, 0]), ({"x-zone": "z"}, [0] * 4), ({}, [0] * 4), ({"x-zone": ""}, [0] * 4)],
)
def test_header_label_affinity(headers: dict[str, str], scores: list[float]) -> None:
    plugin = build("header-label-affinity-scorer", headerName="X-Zone", labelKey="zone")
    assert plugin.score(cycle_of(POOL, headers), np.arange(4)).tolist() == scores
