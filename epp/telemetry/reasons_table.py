"""A decision's reasons as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from epp.domain.decision import Decision
from epp.telemetry.reasons import TOP, describe


def table(decision: Decision, top: int = TOP) -> str:
    """Lines of text; at most `top` candidates a profile."""
    said = describe(decision, top)
    lines = [
        f"request   {_plain(said['request_id'])}",
        f"model     {_plain(said['model'])} -> {_plain(said['target_model'])}"
        + (f" by the rewrite {said['rewrite']}" if said["rewrite"] else ""),
        f"chosen    {said['destination'] or '-'} ({', '.join(said['endpoints']) or 'none'})",
        f"tokens    {said['input_tokens']} in, {said['cached_tokens']} believed cached",
        f"snapshot  {said['snapshot']['endpoints']} endpoints, metrics of the chosen "
        f"{_text(said['chosen_metrics_age_s'])} s old, seed {said['seed']}",
    ]
    for profile in said["profiles"]:
        lines += ["", f"profile {profile['profile']}: {profile['candidates']} candidates"]
        for drop in profile["dropped"]:
            names = ", ".join(drop["endpoints"])
            more = " ..." if drop["count"] > len(drop["endpoints"]) else ""
            lines.append(f"  {drop['filter']} dropped {drop['count']}: {names}{more}")
        lines += _grid(list(_scored(profile)))
        if profile["omitted"]:
            lines.append(f"  ... and {profile['omitted']} more")
        lines += [f"  fault of {fault['plugin']}: {_plain(fault['fault'])}" for fault in profile["faults"]]
        lines.append(f"  {profile['picker'] or 'picker'} took {', '.join(profile['picked']) or 'none'}")
    return "\n".join(lines) + "\n"


def _scored(profile: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    names = [scorer["scorer"] for scorer in profile["scorers"]]
    weights = [f"{scorer['scorer']} x{_text(scorer['weight'])}" for scorer in profile["scorers"]]
    yield "", "endpoint", "total", *weights, "waiting", "running", "kv"
    for one in profile["scored"]:
        numbers = [one["total"], *(one["scores"][name] for name in names)]
        state = [one["waiting"], one["running"], one["kv_used"]]
        yield "*" if one["picked"] else "", one["endpoint"], *(_text(n) for n in (*numbers, *state))


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
