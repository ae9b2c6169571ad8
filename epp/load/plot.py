"""A small picture of one or more runs: TTFT over time, and its distribution. SVG by hand, no scripts.

Two plots side by side in one colour a run. Errors stand as crosses on the upper edge of the left plot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#1f6feb", "#d1622b", "#2a9d55", "#8250df")
WIDTH, HEIGHT = 980, 360
_TOP, _BOTTOM = 44, 306
_LEFT_PLOT = (64, 560)
_RIGHT_PLOT = (640, 960)
MAX_POINTS = 4_000
"""A run; of more, every n-th is drawn, and the plot says so."""


@dataclass(frozen=True, slots=True)
class Series:
    """One run: when requests were sent and what they waited for the first token; both in seconds."""

    label: str
    sent_s: Sequence[float]
    wait_s: Sequence[float | None]
    """TTFT, or the whole latency where answers were not streamed; None for a failed request."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps a value to a coordinate, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self._scale(self.low), self._scale(self.high)
        part = (self._scale(value) - low) / (high - low)
        return round(self.start + min(1.0, max(0.0, part)) * (self.end - self.start), 1)

    def _scale(self, value: float) -> float:
        return math.log10(max(value, 1e-9)) if self.log else value


def svg(series: Sequence[Series], what: str = "TTFT") -> str:
    """The picture. `what` names the latency on the axes."""
    waits = [1000 * wait for one in series for wait in one.wait_s if wait is not None]
    latest = max((at for one in series for at in one.sent_s), default=1.0)
    low, high = _decades(min(waits, default=1.0), max(waits, default=1000.0))
    time = _Axis(0.0, max(latest, 0.001), *_LEFT_PLOT)
    height = _Axis(low, high, _BOTTOM, _TOP, log=True)
    wait = _Axis(low, high, *_RIGHT_PLOT, log=True)
    share = _Axis(0.0, 1.0, _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="system-ui,sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(_LEFT_PLOT[0], 20, f"{what} over time (ms, by when it was sent)", weight="bold"),
        _text(_RIGHT_PLOT[0], 20, f"share of requests with {what} below (ms)", weight="bold"),
    ]
    ticks = [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]
    parts += [_level(height.at(tick), _LEFT_PLOT, _number(tick)) for tick in ticks]
    parts += [_upright(wait.at(tick), _number(tick)) for tick in ticks]
    parts += [_level(share.at(part), _RIGHT_PLOT, f"{part:.0%}") for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
    parts += [_upright(time.at(tick), f"{tick:g} s") for tick in _steps(latest)]
    for index, one in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(_points(one, time, height, colour))
        parts.append(_curve(one, wait, share, colour))
        parts.append(_legend(one, index, colour))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def html(series: Sequence[Series], title: str, what: str = "TTFT") -> str:
    """The picture in a page of its own."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<title>{escape(title)}</title><body style="margin:24px">\n{svg(series, what)}</body></html>\n'
    )


def _points(one: Series, time: _Axis, height: _Axis, colour: str) -> str:
    step = max(1, -(-len(one.sent_s) // MAX_POINTS))
    dots, crosses = [], []
    for at, wait in list(zip(one.sent_s, one.wait_s, strict=True))[::step]:
        if wait is None:
            crosses.append(f"M{time.at(at) - 3} {_TOP - 3}l6 6m0 -6l-6 6")
        else:
            dots.append(f"M{time.at(at)} {height.at(1000 * wait)}h0")
    out = ""
    if dots:
        out += (
            f'<path d="{"".join(dots)}" stroke="{colour}" stroke-width="4" stroke-linecap="round" '
            'stroke-opacity=".45"/>'
        )
    if crosses:
        out += f'<path d="{"".join(crosses)}" stroke="{colour}" fill="none"/>'
    return out


def _curve(one: Series, wait: _Axis, share: _Axis, colour: str) -> str:
    values = sorted(1000 * value for value in one.wait_s if value is not None)
    if not values:
        return ""
    count = len(values)
    picked = sorted({round(i * (count - 1) / 400) for i in range(401)})
    line = " ".join(f"{wait.at(values[i])},{share.at((i + 1) / count)}" for i in picked)
    start = f"{wait.at(values[0])},{share.at(0.0)}"
    return f'<polyline points="{start} {line}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _legend(one: Series, index: int, colour: str) -> str:
    values = [value for value in one.wait_s if value is not None]
    mean = f", mean {1000 * sum(values) / len(values):.0f} ms" if values else ""
    failed = len(one.wait_s) - len(values)
    step = -(-len(one.sent_s) // MAX_POINTS)
    notes = (f", {failed} failed" if failed else "") + (f", 1 of {step} drawn" if step > 1 else "")
    x = 64 + index * 230
    dot = f'<circle cx="{x}" cy="{HEIGHT - 14}" r="5" fill="{colour}"/>'
    return dot + _text(x + 10, HEIGHT - 10, f"{one.label}{mean}{notes}")


def _level(y: float, plot: tuple[int, int], label: str) -> str:
    line = f'<path d="M{plot[0]} {y}H{plot[1]}" stroke="#ddd"/>'
    return line + _text(plot[0] - 6, y + 4, label, anchor="end")


def _upright(x: float, label: str) -> str:
    return f'<path d="M{x} {_BOTTOM}v5" stroke="#888"/>' + _text(x, _BOTTOM + 18, label, anchor="middle")


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


def _decades(low: float, high: float) -> tuple[float, float]:
    """The powers of ten around a range, at least one apart."""
    first = math.floor(math.log10(max(low, 1e-3)))
    last = max(first + 1, math.ceil(math.log10(max(high, 1e-3))))
    return 10.0**first, 10.0**last


def _steps(latest: float) -> list[float]:
    """About five round instants from 0 on."""
    raw = max(latest, 0.001) / 5
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 5, 10) if base * factor >= raw)
    return [step * i for i in range(int(latest / step) + 1)]


def _number(value: float) -> str:
    return f"{value:g}"
