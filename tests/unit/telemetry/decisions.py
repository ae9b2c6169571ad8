"""Builds decisions with their reasons."""

from __future__ import annotations

from typing import Any

import numpy as np

from epp.domain.decision import Decision, Drop, ProfileRun, Score
from epp.domain.snapshot import Snapshot
from tests.builders import snapshot


def decision(
    n: int = 4,
    *,
    request_id: str = "r-1",
    pool: Snapshot | None = None,
    values: list[float] | None = None,
    dropped: tuple[int, ...] = (0,),
    picked: int | None = None,
    **more: Any,
) -> Decision:
    """One profile over n endpoints: row numbers in `dropped` fall to a filter, the best total is picked."""
    pool = pool or snapshot(n, at=99.99, waiting=list(range(n)))
    n = len(pool)
    rows = np.asarray([row for row in range(n) if row not in dropped], dtype=np.intp)
    raw = np.asarray(values if values is not None else [row / n for row in rows], dtype=np.float64)
    chosen = int(rows[int(np.argmax(raw))]) if picked is None else picked
    with np.errstate(over="ignore"):
        totals = raw * 2.0
    run = ProfileRun(
        profile="default",
        candidates=np.arange(n, dtype=np.intp),
        drops=(Drop("label-filter", np.asarray(dropped, dtype=np.intp)),),
        rows=rows,
        scores=(Score("queue-scorer", 2.0, raw),),
        totals=totals,
        picked=(chosen,),
        picker="max-score-picker",
        faults=more.pop("faults", ()),
    )
    return Decision(
        request_id=request_id,
        at=more.pop("at", 100.0),
        model=more.pop("model", "base"),
        target_model="base",
        snapshot=pool,
        endpoints=(pool.endpoints[chosen],),
        primary="default",
        runs=(run,),
        input_tokens=1000,
        cached_tokens=250,
        seed=7,
        attributes={"prefix-match-tokens": np.linspace(0, 1, n)},
    )
