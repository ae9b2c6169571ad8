"""Refusals as answers, durations, endpoints and the small values of the domain."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.errors import DROPPED_REASON, Reason, Refused, answer_of
from epp.domain.request import Prompt
from epp.domain.units import duration_s
from tests import builders


@pytest.mark.parametrize("reason", list(Reason))
def test_every_refusal_is_an_openai_error(reason: Reason) -> None:
    answer = answer_of(Refused(reason, "why \u00e9", param="model"))
    error = json.loads(answer.body)["error"]
    assert error["message"] == "why \u00e9"
    assert error["param"] == "model"
    assert error["type"]
    assert error["code"]
    headers = dict(answer.headers)
    assert headers["content-type"] == "application/json"
    if answer.status in (429, 503) and reason is not Reason.CLIENT_GONE:
        assert 0 < int(headers["retry-after"]) <= 60
        assert headers[DROPPED_REASON].startswith(("rejected-", "evicted"))
    if answer.status < 429:
        assert "retry-after" not in headers


def test_a_better_estimate_replaces_the_tables_retry_after() -> None:
    assert dict(answer_of(Refused(Reason.SHED, "x", retry_after_s=17)).headers)["retry-after"] == "17"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("1m30s", 90.0),
        ("0", 0.0),
        ("0s", 0.0),
        ("1.5h", 5400.0),
        ("-2s", -2.0),
        ("10us", 1e-5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "s", "1 s", "1d", "one", "1s2", "--1s", "1s\n"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration_s(text)


@given(st.from_regex(r"\A(\d{1,3}(\.\d{1,3})?(ns|us|ms|s|m|h)){1,3}\Z"))
def test_what_is_written_like_a_duration_is_one(text: str) -> None:
    assert duration_s(text) >= 0.0
    assert duration_s("-" + text) == -duration_s(text)


def test_authorities_bracket_ipv6() -> None:
    assert builders.endpoint(0, ip="10.0.0.1", port=80).authority == "10.0.0.1:80"
    assert builders.endpoint(0, ip="::1", port=80).authority == "[::1]:80"


def test_text_counts_four_bytes_a_token() -> None:
    assert [Prompt(text=b"x" * n).length for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert builders.request("x" * 400).input_tokens == 100
