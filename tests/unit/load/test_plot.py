"""The picture is well-formed, bounded, and shows what it was given."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from epp.load.plot import HEIGHT, MAX_POINTS, WIDTH, Series, html, svg

NAMESPACE = "{http://www.w3.org/2000/svg}"
waits = st.one_of(st.none(), st.floats(0, 1e5))
points = st.lists(st.tuples(st.floats(0, 1e5), waits), max_size=40)


def series(label: str, rows: list[tuple[float, float | None]]) -> Series:
    return Series(label, [at for at, _ in rows], [wait for _, wait in rows])


@given(st.lists(points, max_size=4), st.text(max_size=10).filter(str.isprintable))
def test_any_run_draws(rows: list[list[tuple[float, float | None]]], label: str) -> None:
    picture = ElementTree.fromstring(svg([series(label, one) for one in rows]))
    for line in picture.iter(f"{NAMESPACE}polyline"):
        pairs = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in pairs)
        assert [x for x, _ in pairs] == sorted(x for x, _ in pairs)
        assert pairs[-1][1] == min(y for _, y in pairs)


def test_dots_and_crosses() -> None:
    text = svg([series("run", [(0.0, 0.1), (1.0, 0.2), (2.0, None)])])
    assert len(re.findall(r"h0", text)) == 2
    assert len(re.findall(r"l6 6m0 -6l-6 6", text)) == 1
    assert "1 failed" in text
    assert "mean 150 ms" in text


def test_labels_are_text_not_markup() -> None:
    text = html([series("<script>", [(0.0, 0.1)])], "a & b")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "<title>a &amp; b</title>" in text


def test_a_long_run_is_thinned_and_says_so() -> None:
    text = svg([series("run", [(float(i), 0.1) for i in range(MAX_POINTS * 3)])])
    assert len(re.findall(r"h0", text)) == MAX_POINTS
    assert "1 of 3 drawn" in text
