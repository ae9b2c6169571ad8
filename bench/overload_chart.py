"""Line and bar charts as SVG text, for the pictures of bench/overload.py.

A picture brings its own ground and follows the reader's light or dark scheme. Series differ in dash and
marker as well as in colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from math import isfinite, log10
from typing import Final

_LIGHT: Final = ("#24292f", "#d8dee4", "#ffffff", ("#0550ae", "#bc4c00", "#1a7f37"))
_DARK: Final = ("#e6edf3", "#30363d", "#0d1117", ("#79c0ff", "#ffa657", "#7ee787"))


def _scheme(ink: str, grid: str, ground: str, series: Sequence[str]) -> str:
    rules = [f"text{{fill:{ink}}}.axis{{stroke:{ink}}}.grid{{stroke:{grid}}}.ground{{fill:{ground}}}"]
    for i, colour in enumerate(series):
        rules.append(f".line.s{i}{{stroke:{colour}}}.mark.s{i},.bar.s{i}{{fill:{colour}}}")
    return "\n".join(rules)


_STYLE: Final = f"""\
text{{font:12px system-ui,sans-serif}}.title{{font-size:14px;font-weight:600}}
.axis,.line{{fill:none}}.line{{stroke-width:2.2}}
{_scheme(*_LIGHT)}
@media (prefers-color-scheme:dark){{
{_scheme(*_DARK)}
}}
"""
_DASHES: Final = ("", "7 4", "2 4")
LEFT, TOP, RIGHT, BOTTOM = 52.0, 54.0, 14.0, 44.0


@dataclass(frozen=True, slots=True)
class Axis:
    label: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False
    show: Callable[[float], str] = "{:g}".format

    def at(self, value: float) -> float:
        """0 at its low end, 1 at its high end; what lies beyond is put on the end."""
        value = min(self.high, max(self.low, value))
        if self.log:
            return log10(value / self.low) / log10(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes at a place of the picture."""

    title: str
    x: Axis
    y: Axis
    left: float
    top: float = 0.0
    width: float = 300.0
    height: float = 300.0
    parts: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        return self.left + LEFT + self.x.at(value) * (self.width - LEFT - RIGHT)

    def py(self, value: float) -> float:
        return self.top + self.height - BOTTOM - self.y.at(value) * (self.height - TOP - BOTTOM)

    def frame(self) -> None:
        x0, x1, y0, y1 = self.px(self.x.low), self.px(self.x.high), self.py(self.y.low), self.py(self.y.high)
        add = self.parts.append
        add(f'<text class="title" x="{x0:.1f}" y="{self.top + 22:.1f}">{escape(self.title)}</text>')
        for tick in self.y.ticks:
            y = self.py(tick)
            add(f'<path class="grid" d="M{x0:.1f} {y:.1f}H{x1:.1f}"/>')
            add(_text(x0 - 6, y + 4, self.y.show(tick), "end"))
        for tick in self.x.ticks:
            add(_text(self.px(tick), y0 + 18, self.x.show(tick), "middle"))
        add(f'<path class="axis" d="M{x0:.1f} {y1:.1f}V{y0:.1f}H{x1:.1f}"/>')
        add(_text((x0 + x1) / 2, y0 + 36, self.x.label, "middle"))
        add(_text(x0 - 40, y1 - 12, self.y.label, "start"))

    def line(self, series: int, points: Sequence[tuple[float, float]]) -> None:
        known = [(self.px(x), self.py(y)) for x, y in points if isfinite(y)]
        if not known:
            return
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in known)
        self.parts.append(f'<path class="line s{series}" stroke-dasharray="{_DASHES[series]}" d="M{path}"/>')
        self.parts.extend(_mark(series, x, y) for x, y in known)

    def bar(self, series: int, at: float, width: float, height: float) -> None:
        x0, x1, y = self.px(at - width / 2), self.px(at + width / 2), self.py(height)
        size = f'x="{x0:.1f}" y="{y:.1f}" width="{x1 - x0:.1f}" height="{self.py(self.y.low) - y:.1f}"'
        self.parts.append(f'<rect class="bar s{series}" {size}/>')


def legend(names: Sequence[str], left: float, y: float) -> list[str]:
    parts = []
    for series, name in enumerate(names):
        parts.append(
            f'<path class="line s{series}" stroke-dasharray="{_DASHES[series]}" d="M{left} {y}h34"/>'
            + _mark(series, left + 17, y)
            + _text(left + 42, y + 4, name, "start")
        )
        left += 60 + 7.0 * len(name)
    return parts


def picture(
    width: float, height: float, title: str, panels: Sequence[Panel], more: Sequence[str] = ()
) -> str:
    """`title` is what a screen reader says."""
    parts = [part for panel in panels for part in panel.parts]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" role="img" aria-label="{escape(title, quote=True)}">',
            f"<style>{_STYLE}</style>",
            f'<rect class="ground" width="{width:g}" height="{height:g}" rx="6"/>',
            *parts,
            *more,
            "</svg>\n",
        ]
    )


def _mark(series: int, x: float, y: float) -> str:
    shapes = (
        f'<circle class="mark s0" cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
        f'<rect class="mark s1" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>',
        f'<path class="mark s2" d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>',
    )
    return shapes[series]


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
