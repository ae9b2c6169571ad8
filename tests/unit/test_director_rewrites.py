"""Rewrites of models' names: which body and headers go on, what the client sees, what is counted and told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from epp.candidates import Candidates
from epp.datalayer.models import ModelProber
from epp.domain.rewrite import Rewrite, RewriteRule, RewriteTarget
from epp.domain.views import Route
from epp.telemetry.reasons import describe, headline
from epp.telemetry.reasons_table import table
from tests.house import House, chat, refusal

REWRITE_HEADER = "x-llm-d-model-name-rewrite"


def rewrite(
    *targets: str | tuple[str, int | None], match: str = "m", name: str = "ours", header: str = ""
) -> Rewrite:
    """One rule; without `match` it is generic."""
    pairs = [(target, None) if isinstance(target, str) else target for target in targets]
    rule = RewriteRule((match,) if match else (), tuple(RewriteTarget(*pair) for pair in pairs))
    return Rewrite(name, (rule,), hash_header=header)


def house_of(*rewrites: Rewrite, n: int = 3) -> House:
    house = House(n)
    house.rewrites.replace(rewrites)
    return house


def route(house: House, body: bytes, path: str = "/v1/chat/completions", **more: Any) -> Route:
    verdict = house.play(path, **more).decide(body)
    assert isinstance(verdict, Route), verdict
    return verdict


def counts(house: House) -> dict[tuple[str, str, str], int]:
    """By rewrite, model and target."""
    found = {}
    for line in house.page().splitlines():
        if line.startswith("llm_d_epp_model_rewrite_decisions_total{"):
            labels, _, value = line.partition("{")[2].partition("} ")
            names = dict(pair.split("=") for pair in labels.split(","))
            key = names["model_rewrite_name"], names["model_name"], names["target_model"]
            found[key] = int(float(value))
    return {(a.strip('"'), b.strip('"'), c.strip('"')): n for (a, b, c), n in found.items()}


def test_a_rule_renames_the_model_on_its_way_in_and_out() -> None:
    house = house_of(rewrite("target-model"))
    body = b'{"messages":[{"role":"user","content":"\\"model\\":\\"m\\""}], "model" : "m","x":1.10}'
    played = house.play()
    verdict = played.decide(body)
    assert isinstance(verdict, Route)
    assert verdict.body == body.replace(b' : "m"', b' : "target-model"')
    assert (REWRITE_HEADER, "target-model") in verdict.set_headers
    played.headers(200, {"content-type": "application/json"})
    sent = played.body(b'{"model":"targ', last=False)
    assert sent + played.body(b'et-model","n":1}') == b'{"model":"m","n":1}'
    played.end()
    assert counts(house) == {("ours", "m", "target-model"): 1}
    assert 'llm_d_epp_request_total{model_name="m",target_model_name="target-model"' in house.page()


def test_a_rule_for_the_clients_model_beats_the_header() -> None:
    """The rule is looked up by what the client named, not by what the header says."""
    house = house_of(rewrite("by-rule"), rewrite("chained", match="by-header", name="other"))
    verdict = route(house, chat(), headers={REWRITE_HEADER: "by-header"})
    assert verdict.body is not None
    assert json.loads(verdict.body)["model"] == "by-rule"
    assert (REWRITE_HEADER, "by-rule") in verdict.set_headers
    unruled = route(house, chat(model="n"), headers={REWRITE_HEADER: "by-header"})
    assert unruled.body is not None
    assert json.loads(unruled.body)["model"] == "by-header"
    assert counts(house) == {("ours", "m", "by-rule"): 1}, "a header's rewrite is no rule's"


def test_a_target_that_is_the_model_changes_nothing_and_counts() -> None:
    house = house_of(rewrite("m"))
    verdict = route(house, chat())
    assert verdict.body is None
    assert verdict.answer.restore is None
    assert REWRITE_HEADER not in dict(verdict.set_headers)
    assert counts(house) == {("ours", "m", "m"): 1}


def test_other_models_pass() -> None:
    house = house_of(rewrite("t", match="x"))
    assert route(house, chat()).body is None
    assert counts(house) == {}
    decision = house.decisions.recent(1)[0]
    assert decision.rewrite == ""
    assert "rewrite=" not in headline(decision)


def test_no_rule_takes_no_chance() -> None:
    """Seeds are drawn once a request, with rules and without: replays repeat."""
    for rewrites in ((), (rewrite(("a", 1), ("b", 1)),)):
        house = house_of(*rewrites)
        for number in range(3):
            route(house, chat(), request_id=f"r{number}")
        assert [decision.seed for decision in house.decisions.recent(3)] == [2, 1, 0]


def test_a_replay_chooses_the_same_target() -> None:
    def targets() -> list[str]:
        house = house_of(rewrite(("a", 1), ("b", 1)))
        for number in range(40):
            route(house, chat(), request_id=f"r{number}")
        return [decision.target_model for decision in house.decisions.recent(40)]

    assert targets() == targets()
    assert set(targets()) == {"a", "b"}


def test_a_header_keeps_its_target() -> None:
    house = house_of(rewrite(("a", 1), ("b", 1), header="x-user-id"))
    by_user: dict[str, set[str]] = {}
    for number in range(100):
        user = f"user-{number % 20}"
        route(house, chat(), headers={"x-user-id": user})
        by_user.setdefault(user, set()).add(house.decisions.recent(1)[0].target_model)
    assert all(len(targets) == 1 for targets in by_user.values())
    assert set.union(*by_user.values()) == {"a", "b"}


def test_a_generic_rule_gives_a_model_to_requests_without_one() -> None:
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    assert refusal(house_of(rewrite("t")).play().decide(body))["param"] == "model"
    house = house_of(rewrite("fallback", match=""))
    for sent in (body, b'{"model":"",' + body[1:], b'{"model":null,' + body[1:]):
        verdict = route(house, sent)
        assert verdict.body is not None
        assert json.loads(verdict.body) == {**json.loads(body), "model": "fallback"}
        assert verdict.answer.restore is None, "there is no name to put back"
    assert counts(house) == {("ours", "", "fallback"): 3}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}),
    ],
)
def test_every_api_with_a_model_is_rewritten(path: str, body: Mapping[str, object]) -> None:
    for model in ({"model": "m"}, {}):
        house = house_of(rewrite("t", match=""))
        verdict = route(house, json.dumps({**model, **body}).encode(), path)
        assert verdict.body is not None
        assert json.loads(verdict.body) == {"model": "t", **body}


def test_a_form_is_rewritten_and_wants_its_model() -> None:
    kind = {"content-type": "multipart/form-data; boundary=B"}
    part = '--B\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    house = house_of(rewrite("t", match=""))
    form = (part.format("model", "m") + part.format("language", "en") + "--B--\r\n").encode()
    verdict = route(house, form, "/v1/audio/transcriptions", headers=kind)
    assert verdict.body == form.replace(b"\r\nm\r\n", b"\r\nt\r\n")
    without = (part.format("language", "en") + "--B--\r\n").encode()
    refused = refusal(house.play("/v1/audio/transcriptions", headers=kind).decide(without))
    assert (refused["status"], refused["param"]) == (400, "model")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/conversations", b'{"items":[]}'),
        ("/generate", b'{"input_ids":[1,2]}'),
        ("/anything", b"not JSON at all"),
    ],
)
def test_what_has_no_place_for_a_model_goes_on_as_it_came(path: str, body: bytes) -> None:
    house = house_of(rewrite("t", match=""))
    verdict = route(house, body, path)
    assert verdict.body is None
    assert REWRITE_HEADER not in dict(verdict.set_headers)
    assert counts(house) == {}
    assert house.decisions.recent(1)[0].rewrite == ""


def test_a_cut_body_that_does_not_show_its_model_goes_on_as_it_came() -> None:
    house = house_of(rewrite("t", match=""))
    for cut, changed in ((b'{"messages":[{"role":"user","content":"he', False), (b'{"model":"m","me', True)):
        verdict = house.open().decide(cut, truncated=True)
        assert isinstance(verdict, Route)
        assert (verdict.body is not None) is changed
    assert counts(house) == {("ours", "m", "t"): 1}


def test_a_rule_without_a_name_is_the_operators_mistake() -> None:
    refused = refusal(house_of(rewrite("")).play().decide(chat()))
    assert (refused["status"], refused["param"]) == (400, "model")
    assert "'ours'" in refused["message"]


def test_who_serves_the_target_is_asked_not_who_serves_the_model() -> None:
    house = house_of(rewrite("t"), n=2)
    house.director.candidates = Candidates(house.director.homes, ModelProber().join(house.store), house.clock)
    first, second = house.store.endpoints
    house.store.set_models(first, frozenset({"m"}), house.now)
    house.store.set_models(second, frozenset({"t"}), house.now)
    for number in range(8):
        assert route(house, chat(f"prompt {number}")).destination == second.authority


def test_the_reasons_name_the_rewrite() -> None:
    house = house_of(rewrite("t"))
    route(house, chat())
    decision = house.decisions.recent(1)[0]
    assert describe(decision)["rewrite"] == "ours"
    assert headline(decision).endswith(" rewrite=ours")
    assert "model     m -> t by the rewrite ours\n" in table(decision)


def test_a_name_that_no_header_can_hold_is_in_the_body_alone() -> None:
    house = house_of(rewrite("mödel"))
    verdict = route(house, chat())
    assert verdict.body is not None
    assert json.loads(verdict.body)["model"] == "mödel"
    assert REWRITE_HEADER not in dict(verdict.set_headers)
