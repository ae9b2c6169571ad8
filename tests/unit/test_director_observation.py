"""Which answers the director has looked at, and what it says of the others."""

from __future__ import annotations

import json
import logging
from random import Random
from typing import Any

import pytest

from epp.datalayer.observation.gateways import Mode
from epp.datalayer.observation.observation import Observation, Rules
from epp.domain.request import AnswerView
from epp.domain.views import Route
from tests.house import House, Played, chat
from tests.unit.telemetry.pages import Page

REWRITE = {"x-gateway-model-name-rewrite": "target"}
ANSWER = json.dumps({"id": "resp_1", "usage": {"prompt_tokens": 50, "completion_tokens": 30}}).encode()


def watching(mode: Mode = Mode.AUTO, rules: Rules | None = None) -> House:
    house = House()
    house.director.observation = Observation(house.ledger, Random(1), mode=mode, rules=rules)
    house.metrics.watch_answers(house.director.observation)
    return house


def send(
    house: House, view: AnswerView, body: bytes | None = None, path: str = "/v1/chat/completions", **more: Any
) -> tuple[Played, Route]:
    played = house.play(path, answer_view=view, **more)
    verdict = played.decide(chat(stream=True) if body is None else body)
    assert isinstance(verdict, Route)
    return played, verdict


def finish(house: House, played: Played, *, shown: bool) -> None:
    played.headers(200, {"content-type": "application/json"})
    house.now += 0.5
    if shown:
        played.body(ANSWER)
    played.end()


def counted(house: House) -> dict[tuple[str, str], float]:
    page = Page(house.page())
    return {
        (labels["observed"], labels["wanted"]): page.value("epp_answers_total", **labels)
        for labels in page.labels("epp_answers_total")
    }


def test_a_gateway_that_shows_everything_leaves_nothing_to_do() -> None:
    house = watching(Mode.ENDS)
    played, verdict = send(house, AnswerView.ALWAYS)
    assert verdict.answer.observe
    finish(house, played, shown=True)
    assert counted(house) == {("true", "all"): 1}
    assert Page(house.page()).labels("epp_observation_mode") == [
        {"asked": "ends", "gateway": "always", "effect": "all"}
    ]


def test_samples_are_taken_where_the_gateway_lets_us_choose() -> None:
    house = watching()
    observed = 0
    for _ in range(60):
        played, verdict = send(house, AnswerView.CHOICE)
        observed += verdict.answer.observe
        finish(house, played, shown=verdict.answer.observe)
    assert 10 < observed < 50
    assert counted(house) == {("true", "sample"): observed, ("false", "none"): 60 - observed}
    assert house.inflight() == (0, 0)


def test_what_was_not_seen_is_in_no_histogram_of_what_was_seen() -> None:
    house = watching(Mode.ENDS)
    for shown in (True, False, False):
        view = AnswerView.ALWAYS if shown else AnswerView.NEVER
        played, _ = send(house, view)
        finish(house, played, shown=shown)
    page = Page(house.page())
    for name, count in (
        ("duration_seconds", 3), ("ttft_seconds", 1), ("output_tokens", 1), ("input_tokens", 1),
    ):  # fmt: skip
        assert page.value(f"llm_d_epp_request_{name}_count") == count, name
    assert page.value("llm_d_epp_response_size_bytes_count") == 1
    assert page.value("epp_estimated_tokens_total", kind="output") > 0
    assert page.value("epp_estimated_tokens_total", kind="input") > 100


def test_estimated_tokens_follow_what_was_seen() -> None:
    house = watching()
    for _ in range(8):
        played, _ = send(house, AnswerView.CHOICE)
        finish(house, played, shown=True)
    played, _ = send(house, AnswerView.NEVER)
    finish(house, played, shown=False)
    page = Page(house.page())
    assert page.value("epp_estimated_tokens_total", kind="output") == 30
    assert page.value("epp_estimated_tokens_total", kind="input") == pytest.approx(50, abs=1)


@pytest.mark.parametrize(
    ("rules", "more"),
    [
        (Rules(header="x-bill"), {"headers": {"x-bill": ""}}),
        (Rules(models=frozenset({"m"})), {}),
        (Rules(objectives=frozenset({"paid"})), {"headers": {"x-llm-d-inference-objective": "paid"}}),
        (Rules(objectives=frozenset({"paid"})), {"headers": {"x-gateway-inference-objective": "paid"}}),
    ],
)
def test_who_must_be_accounted_for_is_looked_at(
    rules: Rules, more: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    house = watching(Mode.ENDS, rules)
    played, verdict = send(house, AnswerView.CHOICE, **more)
    assert verdict.answer.observe
    finish(house, played, shown=True)
    for _ in range(2):
        played, verdict = send(house, AnswerView.NEVER, **more)
        finish(house, played, shown=False)
    assert counted(house) == {("true", "asked"): 1, ("false", "asked"): 2}
    assert [record.message for record in caplog.records if "should have been" in record.message] == [
        "an answer that should have been looked at was not sent to us: usage that the configuration asks for "
        "is not known"
    ]


def test_others_are_not() -> None:
    rules = Rules(header="x-bill", models=frozenset({"other"}), objectives=frozenset({"paid"}))
    house = watching(Mode.ENDS, rules)
    headers = {"x-llm-d-inference-objective": "free", "x-gateway-inference-objective": "paid"}
    _, verdict = send(house, AnswerView.CHOICE, headers=headers)
    assert not verdict.answer.observe


def test_a_name_to_put_back_must_be_seen() -> None:
    house = watching(Mode.ENDS)
    played, verdict = send(house, AnswerView.CHOICE, headers=REWRITE)
    assert verdict.answer.observe
    assert verdict.answer.restore == ("target", "m")
    finish(house, played, shown=True)
    played, verdict = send(house, AnswerView.NEVER, headers=REWRITE)
    assert verdict.answer.restore is None, "the answer's length is not taken away for nothing"
    finish(house, played, shown=False)
    assert counted(house) == {("true", "rewritten"): 1, ("false", "rewritten"): 1}


def test_a_stored_answer_must_be_seen() -> None:
    house = watching(Mode.ENDS)
    body = json.dumps({"model": "m", "input": "hello"}).encode()
    played, verdict = send(house, AnswerView.CHOICE, body, "/v1/responses")
    assert verdict.answer.observe
    finish(house, played, shown=True)
    assert counted(house) == {("true", "stored"): 1}
    assert house.director.homes.of("resp_1") is not None


def test_a_gateway_that_ignores_overrides_is_found_out_and_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    house = watching(Mode.ENDS)
    first, verdict = send(house, AnswerView.CHOICE)
    second, _ = send(house, AnswerView.CHOICE)
    assert not verdict.answer.observe
    first.headers(200, {"content-type": "text/event-stream"})
    first.body(b"data: {}\n\n", last=False)
    third, verdict = send(house, AnswerView.CHOICE)
    assert verdict.answer.observe, "known at the first piece"
    for played in (first, second, third):
        finish(house, played, shown=True)
    assert [record.message for record in caplog.records if record.name == "epp.observation"] == [
        "observe: ends: no answer is looked at; first tokens and usage are estimated (the gateway's body "
        "modes leave the choice to us)",
        "observe: ends: every answer is looked at (the gateway sends bodies that need not be sent: "
        "allow_mode_override is off there, or it skips the answers' headers); docs/modes.md says which "
        "gateway settings 'ends' needs",
    ]
    assert Page(house.page()).labels("epp_observation_mode") == [
        {"asked": "ends", "gateway": "no-override", "effect": "all"}
    ]
    house.now += 61.0
    tried, verdict = send(house, AnswerView.CHOICE)
    assert not verdict.answer.observe
    _, verdict = send(house, AnswerView.CHOICE)
    assert verdict.answer.observe, "one is tried"
    finish(house, tried, shown=False)
    _, verdict = send(house, AnswerView.CHOICE)
    assert not verdict.answer.observe


def test_the_gauges_of_what_is_in_flight_are_settled_first() -> None:
    house = watching()
    send(house, AnswerView.NEVER)
    assert house.inflight()[1] > 100
    house.now += 60.0
    other, _ = send(house, AnswerView.ALWAYS, b'{"model": "m", "prompt": ""}', "/v1/completions")
    assert house.inflight() == (2, 0)
    other.end()
