"""bench/overload.py, a shorter scene: what flow control must keep at twice what the engines can do. Virtual
time, so the same figures on every machine."""

from __future__ import annotations

from functools import cache
from math import inf
from pathlib import Path
from xml.etree import ElementTree

import overload
import pytest
from click.testing import CliRunner
from overload_chart import Axis, Panel, picture
from overload_figures import Figures, Played, Span, fair_shares, figures, jain, lost
from overload_run import capacity
from overload_scene import BANDS, FLOODER, Ask, Job, asks
from overload_settings import OURS, REFERENCE

from epp.config.loader import load_file

ENGINES = 4
PROFILE = overload.bench_profile(100.0)
SPAN = Span(60.0, 120.0, tail_s=15.0)
DOCS = Path(__file__).resolve().parents[3] / "docs"


@cache
def limits() -> tuple[float, float]:
    return capacity(PROFILE, ENGINES, 1, warm_s=60.0, until_s=160.0)


@cache
def played(admission: str, load: float) -> Figures:
    requests_s, tokens_s = limits()
    scene = overload.Scene(PROFILE, ENGINES, 0.1, SPAN, requests_s)
    return figures(admission, load, [scene.play(admission, load, 1)], SPAN, requests_s, tokens_s)


def test_the_top_band_keeps_its_latency() -> None:
    calm, full = played(OURS, 0.5).bands["interactive"], played(OURS, 2.0).bands["interactive"]
    assert full.ttft_p99_s <= 1.5 * calm.ttft_p99_s
    assert (full.refusals, full.unanswered) == (0, 0.0)
    assert full.slo_goodput >= 0.99 * full.offered > 0.3


def test_a_tenant_below_its_fair_share_loses_nothing_by_the_flooder() -> None:
    assert lost(played(OURS, 0.5), played(OURS, 2.0)) <= 0.05
    assert lost(played(OURS, 0.5), played(REFERENCE, 2.0)) > 0.2
    assert played(OURS, 2.0).jain > 0.97
    assert played(OURS, 2.0).tenants[FLOODER] > 0.3


def test_the_engines_stay_full() -> None:
    assert played(OURS, 2.0).goodput >= 0.97


def test_who_is_refused_is_told_when_to_come_back() -> None:
    full = played(OURS, 2.0)
    assert full.inversions == 0
    batch = full.bands["batch"]
    assert batch.refusals > 100
    least, median, most = batch.retry_after_s
    assert 1 <= least <= median <= most <= 60
    assert median > 5


def test_the_same_small_tenants_at_any_load() -> None:
    calm, full = (list(asks(load, 40.0, 20.0, 1)) for load in (0.5, 2.0))
    seen = [[(a.at, a.band, a.tokens) for a in run if a.tenant != FLOODER] for run in (calm, full)]
    assert seen[0] == seen[1] != []
    assert len(full) == pytest.approx(4 * len(calm), rel=0.2)


def test_shares() -> None:
    assert fair_shares([0.1, 0.1, 2.0]) == pytest.approx([0.1, 0.1, 0.8])
    assert fair_shares([0.5, 0.6, 2.0]) == pytest.approx([1 / 3] * 3)
    assert jain([1.0, 1.0]) == 1.0
    assert jain([1.0, 0.0]) == 0.5
    assert jain([0.0]) == 1.0


def job(priority: int, at: float, *refused: tuple[float, int]) -> Job:
    band = next(band for band in BANDS if band.priority == priority)
    made = Job(Ask(at, 0, 1, band, 10, 10, 2))
    made.refused_at.extend(when for when, _ in refused)
    made.retry_after_s.extend(seconds for _, seconds in refused)
    return made


def test_inversions_are_found() -> None:
    """Refused at 10 s while a lower one is sent; refused at 30 s long after; a lower one refused is none."""
    sent = [(9.5, -10), (20.0, 100), (25.0, 0)]
    jobs = [job(100, 8.0, (10.0, 18), (30.0, 1)), job(0, 9.0, (10.0, 1))]
    one = figures("x", 2.0, [Played(jobs, sent)], Span(0.0, 40.0), 1.0, 1.0)
    assert one.inversions == 1
    assert one.bands["interactive"].ttft_p99_s == inf


def test_pictures_are_xml_and_bounded() -> None:
    x, y = Axis("load", 0.0, 2.0, (0, 1, 2)), Axis("s & more", 0.1, 10.0, (0.1, 1, 10), log=True)
    panel = Panel('a "title" <b>', x, y, left=0.0)
    panel.frame()
    panel.line(0, [(0.0, 0.001), (1.0, 1.0), (2.0, inf)])
    panel.bar(1, 1.0, 0.5, 99.0)
    root = ElementTree.fromstring(picture(300, 300, "p", [panel]))
    assert root.tag.endswith("svg")
    assert panel.py(99.0) == panel.py(10.0) < panel.py(0.001) == panel.py(0.1)


def test_the_tables_and_pictures(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        overload.main,
        ["--load", "0.5,2", "--engines", "1", "--seeds", "1", "--warm", "2", "--seconds", "3",
         "--pictures", str(tmp_path), "--out", str(tmp_path / "o.json")],
    )  # fmt: skip
    assert "wanted and reached" in done.output, done.output
    names = {file.name for file in tmp_path.glob("*.svg")}
    assert names == {file.name for file in (DOCS / "img").glob("overload-*.svg")}
    assert CliRunner().invoke(overload.main, ["--load", "0.1"]).exit_code == 2


def test_the_documented_configuration_is_the_measured_one() -> None:
    file = Path(overload.__file__).with_name("overload.yaml")
    documented = (DOCS / "overload.md").read_text().split("```yaml\n")
    assert any(block.startswith(file.read_text() + "```") for block in documented)
    assert not load_file(str(file), allow_experimental=True).notices
