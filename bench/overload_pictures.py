"""The pictures of docs/overload.md, by file name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from overload_chart import Axis, Panel, legend, picture
from overload_figures import Figures
from overload_scene import BANDS, FLOODER, TENANTS
from overload_settings import OPEN, OURS, REFERENCE

_ADMISSIONS = (OPEN, REFERENCE, OURS)
_SHARED_AT = 2.0
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def draw(done: Sequence[Figures]) -> Mapping[str, str]:
    return {
        "overload-ttft.svg": _ttft(done),
        "overload-goodput.svg": _goodput(done),
        "overload-tenants.svg": _tenants(done),
    }


def _load_axis(done: Sequence[Figures]) -> Axis:
    loads = sorted({one.load for one in done})
    return Axis("offered load, x capacity", min(0.4, loads[0]), loads[-1] + 0.1, loads)


def _ttft(done: Sequence[Figures]) -> str:
    y = Axis("p99 time to first token, s (log)", 0.1, 1000.0, (0.1, 1, 10, 100, 1000), log=True)
    panels = []
    for i, admission in enumerate(_ADMISSIONS):
        panel = Panel(admission, _load_axis(done), y, left=300.0 * i, height=310)
        panel.frame()
        runs = [one for one in done if one.admission == admission]
        for series, band in enumerate(BANDS):
            panel.line(series, [(one.load, one.bands[band.name].ttft_p99_s) for one in runs])
        panels.append(panel)
    key = legend([f"{band.name} (priority {band.priority})" for band in BANDS], 130, 330)
    return picture(910, 350, "99th percentile of the time to the first token over offered load", panels, key)


def _goodput(done: Sequence[Figures]) -> str:
    y = Axis("tokens, % of capacity", 0.0, 1.1, SHARES, show=lambda v: f"{v:.0%}")
    panels = []
    for i, title in enumerate(("all answers", "answers within the SLO of their band")):
        panel = Panel(title, _load_axis(done), y, left=450.0 * i, width=450, height=310)
        panel.frame()
        for series, admission in enumerate(_ADMISSIONS):
            runs = [one for one in done if one.admission == admission]
            panel.line(series, [(one.load, one.slo_goodput if i else one.goodput) for one in runs])
        panels.append(panel)
    return picture(910, 350, "goodput over offered load", panels, legend(_ADMISSIONS, 240, 330))


def _tenants(done: Sequence[Figures]) -> str:
    """Bars at the load where they differ most; without that load, at the highest."""
    loads = {one.load for one in done}
    load = _SHARED_AT if _SHARED_AT in loads else max(loads)
    shown = [one for one in done if one.load == load]
    y = Axis("answered within the SLO, % of what it asked for", 0.0, 1.1, SHARES, show=lambda v: f"{v:.0%}")
    x = Axis("tenant; the first one floods", 0.3, TENANTS + 0.7, range(1, TENANTS + 1))
    panels = []
    for i, one in enumerate(shown):
        panel = Panel(f"{one.admission}, x{load:g}", x, y, left=300.0 * i, height=310)
        panel.frame()
        for tenant, share in enumerate(one.answered):
            panel.bar(1 if tenant == FLOODER else 0, tenant + 1, 0.7, share)
        panels.append(panel)
    return picture(910, 320, "what each tenant got of what it asked for", panels)
