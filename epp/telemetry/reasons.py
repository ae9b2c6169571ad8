"""A decision's reasons as other eyes want them, JSON and one line; and a ring of the last decisions.

Nothing is computed when a decision is made: the ring keeps the value and describes it when somebody asks.
"""

from __future__ import annotations

from collections import deque
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


class DecisionLog:
    """The last decisions, bounded by number and by the bytes that they keep alive.

    Decisions in a row share a snapshot; it is counted once, to the oldest that still holds it.
    """

    def __init__(self, capacity: int = DECISIONS_MAX, max_bytes: int = BYTES_MAX) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._ring: deque[Decision] = deque()
        self._costs: deque[int] = deque()
        """Of the ring's decisions, without their snapshots."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def held_bytes(self) -> int:
        """An estimate, arrays only."""
        return self._bytes

    def record(self, decision: Decision) -> None:
        ring = self._ring
        snapshot = decision.snapshot
        cost = _cost(decision)
        held = self._bytes + cost
        if not ring or ring[-1].snapshot is not snapshot:
            held += _snapshot_cost(snapshot)
        ring.append(decision)
        self._costs.append(cost)
        while len(ring) > self._capacity or (held > self._max_bytes and len(ring) > 1):
            oldest = ring.popleft()
            held -= self._costs.popleft()
            if not ring or ring[0].snapshot is not oldest.snapshot:
                held -= _snapshot_cost(oldest.snapshot)
        self._bytes = held

    def find(self, request_id: str) -> Decision | None:
        """Of several decisions with one request id the last. Searches: asked for rarely, recorded always."""
        newest_first = reversed(self._ring)
        return next((decision for decision in newest_first if decision.request_id == request_id), None)

    def recent(self, n: int) -> list[Decision]:
        """The last n, newest first."""
        return list(islice(reversed(self._ring), max(0, n)))


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
