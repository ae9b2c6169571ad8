"""What `epp load` prints and writes when a run is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from epp.load import plot as picture
from epp.load import report
from epp.load.run import Run
from epp.load.summary import Summary, summarise


def publish(
    console: Console,
    run: Run,
    settings: Mapping[str, Any],
    goodput: Mapping[str, float],
    output: Path | None,
    plot: Path | None,
) -> Summary:
    """Prints the tables and writes the files that were asked for. Raises ClickException."""
    summary = summarise(run.records, run.duration_s, goodput=goodput, most_open=run.most_open)
    closed = bool(settings.get("max_concurrency"))
    warnings = run.health.warnings(closed_loop=closed)
    console.print(report.facts(summary))
    console.print()
    console.print(report.latencies(summary, closed_loop=closed))
    for title, values in (("errors", summary.errors), ("requests an endpoint", summary.endpoints)):
        if values:
            console.print()
            console.print(report.counts(title, values))
    for record in [record for record in run.records if record.error][:3]:
        console.print(f"  {record.error}: {record.detail[:200]}", markup=False, highlight=False)
    for warning in warnings:
        console.print(f"[yellow]warning:[/yellow] {warning}", soft_wrap=True)
    if run.interrupted:
        console.print("[yellow]interrupted:[/yellow] the numbers are of what was answered until then")
    try:
        if output is not None:
            report.write(output, run, summary, settings, warnings)
        if plot is not None:
            columns = report.columns(run)
            label = output.stem if output is not None else str(settings.get("workload", "load"))
            draw(plot, [report.Result(label, {}, columns)])
    except OSError as error:
        raise click.ClickException(str(error)) from error
    return summary


def compare(console: Console, before: Path, after: Path, plot: Path | None) -> None:
    """Two result files side by side. Raises ClickException."""
    try:
        results = [report.read(before), report.read(after)]
        console.print(report.comparison(*results))
        if plot is not None:
            draw(plot, results)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def draw(path: Path, results: Sequence[report.Result]) -> None:
    """Writes the picture; TTFT, or the whole latency where no run has a TTFT. Raises OSError, ValueError."""
    streamed = any(value is not None for one in results for value in one.requests.get("ttft_s", ()))
    field, what = ("ttft_s", "TTFT") if streamed else ("e2e_s", "E2EL")
    series = []
    for one in results:
        requests = one.requests
        try:
            columns = zip(requests["sent_s"], requests[field], requests["error"], strict=True)
            rows = [(at, None if error else wait) for at, wait, error in columns]
        except KeyError as missing:
            raise ValueError(f"{one.label} has no column {missing}") from None
        series.append(picture.Series(one.label, [at for at, _ in rows], [wait for _, wait in rows]))
    if path.suffix == ".html":
        text = picture.html(series, "epp load: " + ", ".join(one.label for one in series), what)
    else:
        text = picture.svg(series, what)
    path.write_text(text, encoding="utf-8")
