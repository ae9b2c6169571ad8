"""Result files, and the tables that people read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from epp.load.run import Run
from epp.load.summary import Spread, Summary

FORMAT = "epp-load/1"
_LATENCIES = (("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"), ("E2EL", "e2el"))
_ARRIVAL = (("TTFT from arrival", "ttft_arrival"), ("E2EL from arrival", "e2el_arrival"))
_COLUMNS = ("mean", "p50", "p90", "p99", "max")


@dataclass(frozen=True, slots=True)
class Result:
    """A result file: the flat summary, and a column for every property of the requests."""

    label: str
    summary: Mapping[str, Any]
    requests: Mapping[str, Sequence[Any]]


def write(
    path: Path, run: Run, summary: Summary, settings: Mapping[str, Any], warnings: Sequence[str]
) -> None:
    """Raises OSError."""
    document = document_of(run, summary, settings, warnings)
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


def document_of(
    run: Run, summary: Summary, settings: Mapping[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    """The result file as a value."""
    return {
        "format": FORMAT,
        "date": datetime.fromtimestamp(run.started_at, UTC).isoformat(timespec="seconds"),
        "settings": dict(settings),
        **summary.as_json(),
        "interrupted": run.interrupted,
        "generator": {
            "cpu_share": run.health.cpu_share,
            "loop_late_p99_ms": run.health.loop_late_p99_s * 1000,
            "connections": run.connections,
            "warnings": list(warnings),
        },
        "requests": columns(run),
    }


def columns(run: Run) -> dict[str, list[Any]]:
    """One list a property, in the order in which requests ended; seconds, rounded to microseconds."""
    records = run.records
    return {
        "session": [r.session for r in records],
        "turn": [r.turn for r in records],
        "model": [r.model for r in records],
        "intended_s": [round(r.intended_at, 6) for r in records],
        "sent_s": [round(r.sent_at, 6) for r in records],
        "ttft_s": [None if r.ttft_s is None else round(r.ttft_s, 6) for r in records],
        "e2e_s": [round(r.e2e_s, 6) for r in records],
        "status": [r.status for r in records],
        "error": [r.error for r in records],
        "input_tokens": [r.input_tokens for r in records],
        "cached_tokens": [r.cached_tokens for r in records],
        "output_tokens": [r.output_tokens for r in records],
        "endpoint": [r.endpoint for r in records],
    }


def read(path: Path) -> Result:
    """A result file. Raises OSError, or ValueError that says what is wrong with it."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path} is not a result of `epp load` ({FORMAT})")
    requests = document.pop("requests", {})
    return Result(path.stem, document, requests)


def facts(summary: Summary) -> Table:
    """Counts and throughput, in the words of vLLM's benchmark."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows: list[tuple[str, str]] = [
        ("Successful requests", f"{summary.completed}"),
        ("Failed requests", f"{summary.failed}"),
        ("Benchmark duration (s)", f"{summary.duration_s:.2f}"),
        ("Total input tokens", f"{summary.total_input_tokens}"),
        ("Total generated tokens", f"{summary.total_output_tokens}"),
        ("Cached prompt tokens", "not reported" if summary.cached_share is None else _share(summary)),
        ("Request throughput (req/s)", f"{summary.request_throughput:.2f}"),
        ("Output token throughput (tok/s)", f"{summary.output_throughput:.2f}"),
        ("Total token throughput (tok/s)", f"{summary.total_token_throughput:.2f}"),
        ("Most requests open", f"{summary.most_open}"),
    ]
    if summary.goodput_limits_ms:
        limits = " ".join(f"{name}:{limit:g}" for name, limit in summary.goodput_limits_ms.items())
        rows.append((f"Request goodput (req/s; {limits})", f"{summary.request_goodput:.2f} ({summary.good})"))
    if summary.retry_after:
        rows.append(("Answers with Retry-After", f"{summary.retry_after}"))
    for name, value in rows:
        table.add_row(name, value)
    return table


def latencies(summary: Summary, *, closed_loop: bool) -> Table:
    """Milliseconds. The rows from arrival appear where sending was late enough to make them differ."""
    table = Table(box=None, pad_edge=False)
    table.add_column("latency, ms", style="bold", header_style="bold")
    for column in ("Mean", "P50", "P90", "P99", "Max"):
        table.add_column(column, justify="right")
    names = list(_LATENCIES)
    if closed_loop or summary.spreads["lag"].p99 > 5.0:
        names.extend(_ARRIVAL)
    names.append(("Sending late by", "lag"))
    for title, name in names:
        spread = summary.spreads[name]
        table.add_row(title, *_cells(spread))
    return table


def counts(title: str, values: Mapping[str, int], limit: int = 32) -> Table:
    """A list of names with how often each occurred, the most frequent first where there are many."""
    table = Table(box=None, pad_edge=False)
    table.add_column(title, header_style="bold")
    table.add_column("", justify="right")
    rows = list(values.items())
    if len(rows) > limit:
        rows = sorted(rows, key=lambda row: -row[1])[:limit]
        rows.append((f"and {len(values) - limit} more", sum(values.values()) - sum(n for _, n in rows)))
    for name, count in rows:
        table.add_row(name, str(count))
    return table


_COMPARED = (
    ("Successful requests", "completed", 0),
    ("Failed requests", "failed", 0),
    ("Request throughput (req/s)", "request_throughput", 2),
    ("Request goodput (req/s)", "request_goodput", 2),
    ("Output token throughput (tok/s)", "output_throughput", 1),
    ("Total token throughput (tok/s)", "total_token_throughput", 1),
    ("Cached prompt token share", "cached_token_share", 3),
    *(
        (f"{column.capitalize()} {title} (ms)", f"{column}_{name}_ms", 2)
        for title, name in _LATENCIES
        for column in ("mean", "p50", "p90", "p99")
    ),
)


def comparison(before: Result, after: Result) -> Table:
    """Two runs side by side with the second's ratio to the first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", style="bold")
    table.add_column(before.label, justify="right")
    table.add_column(after.label, justify="right")
    table.add_column("ratio", justify="right")
    for title, field, digits in _COMPARED:
        left, right = before.summary.get(field), after.summary.get(field)
        if left is None and right is None:
            continue
        ratio = f"{right / left:.2f}" if _number(left) and _number(right) and left else "-"
        table.add_row(title, _cell(left, digits), _cell(right, digits), ratio)
    return table


def _share(summary: Summary) -> str:
    return f"{summary.cached_tokens} ({summary.cached_share or 0.0:.1%})"


def _cells(spread: Spread) -> list[str]:
    if not spread.count:
        return ["-"] * len(_COLUMNS)
    return [f"{getattr(spread, column):.2f}" for column in _COLUMNS]


def _cell(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
