"""A decision's reasons as other eyes want them, JSON and one line; and a ring of the last decisions.

Nothing is computed when a decision is made: the ring keeps the value and describes it when somebody asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from epp.domain.decision import Decision, ProfileRun
from epp.domain.snapshot import NEVER, Snapshot

TOP = 20
"""Candidates that are described one by one, besides the chosen."""
HEADLINE_CHARS = 240
DECISIONS_MAX = 4096
BYTES_MAX = 64 << 20


def describe(decision: Decision, top: int = TOP) -> dict[str, Any]:
    """JSON-ready: numbers, strings, lists and dicts only; NaN and infinity become None.

    Candidates are listed by descending total, the chosen always among them, the others up to `top`; what is
    left out is counted in `omitted`. Dropped endpoints are listed up to `top` a filter.
    """
    snapshot = decision.snapshot
    row = _row_of(decision)
    return {
        "request_id": decision.request_id,
        "at_s": _number(decision.at, 6),
        "model": decision.model,
        "target_model": decision.target_model,
        "rewrite": decision.rewrite,
        "destination": decision.destination,
        "endpoints": [endpoint.key for endpoint in decision.endpoints],
        "profile": decision.primary,
        "input_tokens": decision.input_tokens,
        "cached_tokens": decision.cached_tokens,
        "uncached_tokens": decision.uncached_tokens,
        "seed": decision.seed,
        "snapshot": {
            "version": snapshot.version,
            "endpoints": len(snapshot),
            "age_s": _number(decision.at - snapshot.at, 6),
        },
        "chosen_metrics_age_s": None if row is None else _age(snapshot, row, decision.at),
        "profiles": [_profile(run, decision, top) for run in decision.runs],
    }


def headline(decision: Decision) -> str:
    """One line of printable ASCII for a header or a log: the choice, its total, and who else there was."""
    run = next((run for run in decision.runs if run.profile == decision.primary), None)
    parts = [f"endpoint={decision.endpoint.key}" if decision.endpoints else "endpoint=none"]
    if run is not None:
        parts.append(f"profile={run.profile}")
        parts.append(f"candidates={len(run.rows)}/{len(run.candidates)}")
        for at in np.flatnonzero(run.rows == run.picked[0]).tolist() if run.picked else []:
            parts.append(f"total={run.totals[at]:.4g}")
            parts += [f"{score.scorer}={score.values[at]:.3g}x{score.weight:g}" for score in run.scores]
        if run.faults:
            parts.append(f"faults={len(run.faults)}")
    parts.append(f"cached={decision.cached_tokens}/{decision.input_tokens}")
    if decision.rewrite:
        parts.append(f"rewrite={decision.rewrite}")
    line = " ".join(parts)[:HEADLINE_CHARS]
    return "".join(c if " " <= c <= "~" else "?" for c in line)


def _profile(run: ProfileRun, decision: Decision, top: int) -> dict[str, Any]:
    snapshot = decision.snapshot
    order = _best_first(run, top)
    return {
        "profile": run.profile,
        "candidates": len(run.candidates),
        "dropped": [
            {
                "filter": drop.filter,
                "count": len(drop.rows),
                "endpoints": [snapshot.endpoints[int(row)].key for row in drop.rows[:top]],
            }
            for drop in run.drops
        ],
        "scorers": [{"scorer": score.scorer, "weight": _number(score.weight)} for score in run.scores],
        "scored": [_candidate(run, int(at), decision) for at in order],
        "omitted": len(run.rows) - len(order),
        "picker": run.picker,
        "picked": [snapshot.endpoints[row].key for row in run.picked],
        "faults": [{"plugin": plugin, "fault": fault} for plugin, fault in run.faults],
    }


def _best_first(run: ProfileRun, top: int) -> list[int]:
    """Positions in run.rows: the `top` best totals and the picked ones, best first."""
    totals = np.nan_to_num(run.totals, nan=-np.inf, neginf=-np.inf)
    if len(totals) > top:
        best = set(np.argpartition(-totals, top)[:top].tolist()) if top > 0 else set()
    else:
        best = set(range(len(totals)))
    best.update(np.flatnonzero(np.isin(run.rows, run.picked)).tolist())
    picked = set(run.picked)
    return sorted(best, key=lambda at: (-totals[at], int(run.rows[at]) not in picked, at))


def _candidate(run: ProfileRun, at: int, decision: Decision) -> dict[str, Any]:
    snapshot, row = decision.snapshot, int(run.rows[at])
    attributes = {
        name: _number(column[row]) for name, column in decision.attributes.items() if row < len(column)
    }
    return {
        "endpoint": snapshot.endpoints[row].key,
        "address": snapshot.endpoints[row].authority,
        "total": _number(run.totals[at]),
        "scores": {score.scorer: _number(score.values[at]) for score in run.scores},
        "picked": row in run.picked,
        "waiting": _number(snapshot.waiting[row]),
        "running": _number(snapshot.running[row]),
        "kv_used": _number(snapshot.kv_used[row]),
        "metrics_age_s": _age(snapshot, row, decision.at),
        "attributes": attributes,
    }


def _row_of(decision: Decision) -> int | None:
    if not decision.endpoints:
        return None
    chosen = decision.endpoint
    return next((i for i, e in enumerate(decision.snapshot.endpoints) if e is chosen), None)


def _age(snapshot: Snapshot, row: int, now: float) -> float | None:
    scraped_at = float(snapshot.scraped_at[row])
    return None if scraped_at == NEVER else _number(now - scraped_at, 6)


def _number(value: float, digits: int = 9) -> float | None:
    number = float(value)
    return round(number, digits) if np.isfinite(number) else None


class _Ring:
    """What every view of one log shares."""

    __slots__ = ("bytes", "costs", "decisions", "pools")

    def __init__(self) -> None:
        self.decisions: deque[Decision] = deque()
        self.costs: deque[int] = deque()
        """Of the decisions, without their snapshots."""
        self.pools: deque[str] = deque()
        self.bytes = 0


class DecisionLog:
    """The last decisions, bounded by number and by the bytes that they keep alive.

    Decisions in a row share a snapshot; it is counted once, to the oldest that still holds it.
    """

    def __init__(self, capacity: int = DECISIONS_MAX, max_bytes: int = BYTES_MAX) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._ring = _Ring()
        self._pool = ""

    def of(self, pool: str) -> DecisionLog:
        """The same log, for decisions of this pool: whoever looks is told."""
        log = DecisionLog(self._capacity, self._max_bytes)
        log._ring, log._pool = self._ring, pool
        return log

    def __len__(self) -> int:
        return len(self._ring.decisions)

    @property
    def held_bytes(self) -> int:
        """An estimate, arrays only."""
        return self._ring.bytes

    def record(self, decision: Decision) -> None:
        held = self._ring
        ring = held.decisions
        snapshot = decision.snapshot
        cost = _cost(decision)
        size = held.bytes + cost
        if not ring or ring[-1].snapshot is not snapshot:
            size += _snapshot_cost(snapshot)
        ring.append(decision)
        held.costs.append(cost)
        held.pools.append(self._pool)
        while len(ring) > self._capacity or (size > self._max_bytes and len(ring) > 1):
            oldest = ring.popleft()
            size -= held.costs.popleft()
            held.pools.popleft()
            if not ring or ring[0].snapshot is not oldest.snapshot:
                size -= _snapshot_cost(oldest.snapshot)
        held.bytes = size

    def find(self, request_id: str) -> Decision | None:
        """Of several decisions with one request id the last. Searches: asked for rarely, recorded always."""
        found = self.found(request_id)
        return None if found is None else found[0]

    def found(self, request_id: str) -> tuple[Decision, str] | None:
        """And its pool."""
        newest_first = self._newest_first()
        return next((one for one in newest_first if one[0].request_id == request_id), None)

    def recent(self, n: int) -> list[Decision]:
        """The last n, newest first."""
        return list(islice(reversed(self._ring.decisions), max(0, n)))

    def recent_of(self, n: int, pool: str = "") -> list[tuple[Decision, str]]:
        """The last n of this pool, of every one without, each with its pool; newest first."""
        found = (one for one in self._newest_first() if not pool or one[1] == pool)
        return list(islice(found, max(0, n)))

    def _newest_first(self) -> Iterator[tuple[Decision, str]]:
        return zip(reversed(self._ring.decisions), reversed(self._ring.pools), strict=True)


def _cost(decision: Decision) -> int:
    """Bytes of the arrays and names that this decision holds at most; 1 KiB for the objects around them."""
    names = len(decision.model) + len(decision.target_model) + len(decision.request_id)
    columns = len(decision.attributes)
    for run in decision.runs:
        columns += 4 + len(run.scores)  # candidates, rows, totals, and what the filters dropped
    return 1024 + 4 * names + 8 * columns * len(decision.snapshot.endpoints)


def _snapshot_cost(snapshot: Snapshot) -> int:
    """Bytes of the columns, not of the endpoints, which outlive a snapshot anyway."""
    return 1024 + 96 * len(snapshot)
