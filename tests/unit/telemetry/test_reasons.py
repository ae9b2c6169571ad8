"""Views of a decision."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from epp.domain.snapshot import NEVER
from epp.telemetry.reasons import HEADLINE_CHARS, describe, headline
from epp.telemetry.reasons_table import table
from tests.builders import endpoint, snapshot
from tests.unit.telemetry.decisions import decision


def test_the_whole_story() -> None:
    said = describe(decision(faults=(("queue-scorer", "2 values above 1"),)))
    assert (said["request_id"], said["model"], said["destination"]) == ("r-1", "base", "10.0.0.4:8000")
    assert (said["cached_tokens"], said["uncached_tokens"], said["seed"]) == (250, 750, 7)
    assert said["snapshot"] == {"version": 1, "endpoints": 4, "age_s": 0.01}
    assert said["chosen_metrics_age_s"] == 0.01
    (profile,) = said["profiles"]
    assert profile["dropped"] == [{"filter": "label-filter", "count": 1, "endpoints": ["default/pod-0"]}]
    assert profile["scorers"] == [{"scorer": "queue-scorer", "weight": 2.0}]
    assert [one["endpoint"] for one in profile["scored"]] == [
        "default/pod-3",
        "default/pod-2",
        "default/pod-1",
    ]
    best = profile["scored"][0]
    assert (best["total"], best["scores"], best["picked"], best["waiting"]) == (
        1.5, {"queue-scorer": 0.75}, True, 3.0,
    )  # fmt: skip
    assert best["attributes"] == {"prefix-match-tokens": 1.0}
    assert profile["faults"] == [{"plugin": "queue-scorer", "fault": "2 values above 1"}]
    assert profile["omitted"] == 0


def test_a_big_pool_is_cut_but_the_chosen_stays() -> None:
    said = describe(decision(500, dropped=tuple(range(100)), picked=101), top=5)
    (profile,) = said["profiles"]
    names = [one["endpoint"] for one in profile["scored"]]
    assert names == [*(f"default/pod-{n}" for n in (499, 498, 497, 496, 495)), "default/pod-101"]
    assert profile["omitted"] == 394
    assert (profile["dropped"][0]["count"], len(profile["dropped"][0]["endpoints"])) == (100, 5)
    assert len(json.dumps(said)) < 4000


def test_no_candidates_at_all_are_asked_for() -> None:
    (profile,) = describe(decision(10), top=0)["profiles"]
    assert [one["picked"] for one in profile["scored"]] == [True]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3), st.integers(0, 4))
def test_any_numbers_make_json(values: list[float], top: int) -> None:
    pool = snapshot(4, scraped_at=[NEVER] * 4, kv_used=[math.nan, math.inf, -math.inf, 0.5])
    made = decision(pool=pool, values=values, picked=1)
    said = describe(made, top)
    json.dumps(said, allow_nan=False)
    assert said["chosen_metrics_age_s"] is None
    assert any(one["picked"] for one in said["profiles"][0]["scored"])
    assert "default/pod-1" in table(made, top)


def test_one_line_says_the_choice_and_its_scores() -> None:
    assert headline(decision()) == (
        "endpoint=default/pod-3 profile=default candidates=3/4 total=1.5 queue-scorer=0.75x2 cached=250/1000"
    )


@given(st.text())
def test_the_line_is_short_printable_ascii(name: str) -> None:
    pool = snapshot(endpoints=[endpoint(0, name="drop"), endpoint(1, name=name)])
    line = headline(decision(pool=pool))
    assert len(line) <= HEADLINE_CHARS
    assert line.isascii()
    assert line.isprintable()


def test_the_table_names_everything() -> None:
    text = table(decision(40, dropped=(0, 1), request_id="r\x1b[31m", faults=(("s", "x\ny"),)), top=2)
    for word in ("10.0.0.40:8000", "label-filter dropped 2", "queue-scorer x2", "max-score-picker took",
                 "... and 36 more", "fault of s: x?y", "r?[31m"):  # fmt: skip
        assert word in text
    assert sum(line.lstrip().startswith("*") for line in text.splitlines()) == 1
