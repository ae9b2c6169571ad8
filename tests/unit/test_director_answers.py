"""The director's answer side: what a request holds and for how long, who is believed, what is learned."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.call import REASONS_HEADER
from epp.domain.endpoint import EndpointSpec
from epp.domain.request import Usage
from epp.domain.views import AnswerHead, Ending, Report, Route
from epp.rooms import Settings
from epp.telemetry.buckets import ITL_S
from epp.telemetry.reasons import DecisionLog
from tests import builders
from tests.house import House, Played, chat

JSON = {"content-type": "application/json"}
SESSIONS = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: session-affinity-scorer}
schedulingProfiles:
- {name: default, plugins: [{pluginRef: session-affinity-scorer}]}
"""


def test_the_ledger_follows_a_request_to_its_end() -> None:
    house = House()
    played = house.play()
    verdict = played.decide(chat())
    assert isinstance(verdict, Route)
    assert verdict.body is None
    requests, prefill = house.inflight()
    assert requests == 1
    assert prefill > 100
    # The headers of an answer that is not streamed come when it is complete.
    played.headers(200, JSON)
    assert house.inflight() == (1, 0)
    played.body(b'{"usage": {"prompt_tokens": 5, "completion_tokens": 3}}')
    played.end()
    played.end()
    assert house.inflight() == (0, 0)
    page = house.page()
    assert 'llm_d_epp_request_total{model_name="m",target_model_name="m"' in page
    assert 'llm_d_epp_request_output_tokens_sum{model_name="m"' in page


def test_a_streamed_answer_is_prefilled_with_its_first_token() -> None:
    house = House()
    played = house.play()
    played.route(chat(stream=True))
    prefill = house.inflight()[1]
    assert prefill > 100
    played.headers(200, {"content-type": "text/event-stream"})
    assert house.inflight() == (1, prefill)
    played.body(b"data: {}\n\n")
    assert house.inflight() == (1, 0)
    played.end()


def test_the_second_turn_goes_where_the_first_is_cached() -> None:
    house = House(8)
    turn = house.play()
    first = turn.route(chat("a long story " * 200))
    turn.headers(200, JSON)
    turn.body(b"{}")
    turn.end()
    second = house.play(request_id="r2").route(chat("a long story " * 200 + "and then"))
    assert first == second
    decision = house.decisions.find("r2")
    assert decision is not None
    assert decision.cached_tokens > 500


def test_the_served_endpoint_is_believed() -> None:
    house = House()
    played = house.play()
    chosen = played.route(chat())
    other = next(e for e in house.store.endpoints if e.authority != chosen)
    played.headers(200, served=other.authority)
    row = house.store.endpoints.index(other)
    assert house.ledger.requests(house.store.snapshot.slots)[row] == 1
    played.end()
    assert house.inflight() == (0, 0)


def test_what_another_endpoint_cached_is_learned_though_nobody_waits_for_it() -> None:
    """The prefix producer is told of the answer without being asked for headers."""
    house = House(2)
    first = house.play()
    verdict = first.decide(chat("a long story " * 200))
    assert isinstance(verdict, Route)
    assert not verdict.answer.ask
    other = next(e.authority for e in house.store.endpoints if e.authority != verdict.destination)
    assert first.headers(200, served=other) == []
    first.end()
    again = house.play(request_id="r2", subset=(other,))
    assert again.route(chat("a long story " * 200)) == other
    decision = house.decisions.find("r2")
    assert decision is not None
    assert decision.cached_tokens > 500


def test_a_session_is_bound_to_the_endpoint_that_served() -> None:
    house = House(4, config=SESSIONS)
    played = house.play()
    chosen = played.route(chat())
    other = next(e.authority for e in house.store.endpoints if e.authority != chosen)
    [(name, token)] = played.headers(200, JSON, other)
    assert name == "x-session-token"
    for number in range(8):
        assert house.play(headers={name: token}, request_id=f"r{number}").route(chat()) == other


@pytest.mark.parametrize("header", ["x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"])
def test_a_model_rewrite_splices_and_is_put_back(header: str) -> None:
    body = b'{"messages":[{"role":"user","content":"model"}], "model" : "m","x":1.10}'
    played = House().play(headers={header: "target-model"})
    verdict = played.decide(body)
    assert isinstance(verdict, Route)
    assert verdict.body == body.replace(b'"m"', b'"target-model"')
    played.headers(200, {**JSON, "content-length": "60"})
    sent = played.body(b'{"model":"targ', last=False)
    assert sent + played.body(b'et-model","n":1}') == b'{"model":"m","n":1}'


def test_a_follow_up_goes_where_the_response_was_made() -> None:
    house = House(8)
    made_at: dict[str, str] = {}
    for i in range(8):
        played = house.play("/v1/responses", request_id=f"r{i}")
        destination = played.route(json.dumps({"model": "m", "input": f"question {i} " * 50}).encode())
        played.headers(200, JSON)
        answer = {"id": f"resp_{i}", "object": "response", "usage": {"input_tokens": 1, "output_tokens": 1}}
        played.body(json.dumps(answer).encode())
        played.end()
        made_at[f"resp_{i}"] = destination
    assert len(set(made_at.values())) > 1
    for response_id, destination in made_at.items():
        read = house.play(f"/v1/responses/{response_id}", method="GET", has_body=False).route(b"")
        body = {"model": "m", "input": "more", "previous_response_id": response_id}
        more = house.play("/v1/responses").route(json.dumps(body).encode())
        assert read == more == destination


def test_a_follow_up_goes_where_the_response_was_really_made() -> None:
    house = House(8)
    played = house.play("/v1/responses")
    chosen = played.route(b'{"model": "m", "input": "question"}')
    other = next(e.authority for e in house.store.endpoints if e.authority != chosen)
    played.headers(200, JSON, other)
    played.body(b'{"id": "resp_1", "object": "response"}')
    played.end()
    assert house.play("/v1/responses/resp_1", method="GET", has_body=False).route(b"") == other


def test_the_response_of_a_failure_is_not_remembered() -> None:
    house = House(8)
    for number in range(8):
        played = house.play("/v1/responses", request_id=f"r{number}")
        played.route(json.dumps({"model": "m", "input": f"question {number} " * 50}).encode())
        played.headers(500, {**JSON, "date": "x"})
        played.body(b'{"id": "resp_1", "object": "response"}')
        played.end()
    assert house.director.homes.of("resp_1") is None


def test_a_failing_endpoint_is_avoided() -> None:
    house = House(4)
    bad = "10.0.0.2:8000"
    for i in range(40):
        played = house.play(request_id=f"r{i}")
        chosen = played.route(chat(f"{i} " * 50))
        played.headers(500 if chosen == bad else 200, {"date": "x"}, chosen)
        played.end()
    assert house.outliers.avoided == 1
    assert "epp_outlier_ejections_total 1\n" in house.page()


def test_envoys_own_503_is_a_refused_connection() -> None:
    house = House(4)
    played = house.play()
    played.route(chat())
    played.headers(503, {**JSON, "content-length": "200"})
    assert house.outliers.avoided == 1


@pytest.mark.parametrize("header", ["date", "server", "x-envoy-upstream-service-time", "x-envoy-overloaded"])
def test_one_503_of_an_engine_or_of_envoys_limits_is_not(header: str) -> None:
    house = House(4)
    played = house.play()
    played.route(chat())
    played.headers(503, {"content-type": "text/plain", header: "1"})
    assert house.outliers.avoided == 0


def test_a_gateways_own_refusal_tells_nothing_good_of_an_endpoint() -> None:
    house = House(4)
    for status in (500, 500, 408, 500):
        played = house.play(subset=("10.0.0.1:8000",))
        played.route(chat())
        played.headers(status, {"content-type": "text/plain"} if status == 408 else {"date": "x"})
        played.end()
    assert house.outliers.avoided == 1


def test_a_slots_next_tenant_is_not_blamed() -> None:
    house = House(4)
    requests = [house.play(request_id=f"r{i}") for i in range(100)]
    first = requests[0].route(chat())
    bad = next(e for e in house.store.endpoints if e.authority == first)
    there = [played for played in requests[1:] if played.route(chat()) == bad.authority]
    assert len(there) >= 5
    pool = [EndpointSpec(f"pod-{i}", f"10.0.0.{i + 1}", 8000) for i in range(4)]
    without = [spec for spec in pool if f"{spec.address}:8000" != bad.authority]
    house.store.set_endpoints(without, house.now)
    house.now += 60
    house.store.set_endpoints([*without, EndpointSpec("new", "10.0.0.99", 8000)], house.now)
    new = house.store.by_authority("10.0.0.99:8000")
    assert new is not None
    assert new.slot == bad.slot
    for played in there:
        played.headers(500, {"date": "x"})
        played.end()
    assert house.outliers.avoided == 0


def test_the_reasons_go_out_where_asked_for() -> None:
    verdict = House(settings=Settings(reasons_header=True, emit_scores=True)).open().decide(chat())
    assert isinstance(verdict, Route)
    assert verdict.scores is not None
    assert set(verdict.scores) == {"10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"}
    assert "endpoint=" in dict(verdict.answer.set)[REASONS_HEADER]
    silent = House().open().decide(chat())
    assert isinstance(silent, Route)
    assert silent.answer.set == ()


def test_an_answer_without_its_request_is_passed() -> None:
    house = House()
    played = Played(house.director.open_answer(), house.clock)
    assert played.headers(200, {"content-type": "text/event-stream"}) == []
    assert played.body(b"data: {}\n\n") == b"data: {}\n\n"
    played.end()
    assert "epp_internal_errors_total{" not in house.page()


def test_an_answer_without_its_headers_is_read() -> None:
    """response_header_mode SKIP."""
    house = House()
    played = house.play(headers={"x-llm-d-model-name-rewrite": "target"})
    played.route(chat())
    assert house.inflight()[1] > 0
    answer = b'{"model":"target","usage":{"prompt_tokens":5,"completion_tokens":3}}'
    assert played.body(answer) == answer
    assert house.inflight()[1] == 0
    played.end()
    assert 'llm_d_epp_request_output_tokens_sum{model_name="m",target_model_name="target"' in house.page()


@pytest.mark.parametrize("stream", [True, False])
def test_an_end_right_behind_the_first_token_tells_as_much(stream: bool) -> None:
    """The door may leave out `first_token` then, and the answer's headers may not be shown to it."""
    house = House()
    call = house.open()
    call.decide(chat(stream=stream))
    house.now += 3.0
    report = Report(
        observed=True, first_at=101.0, last_at=102.0, body_bytes=9, usage=Usage(completion_tokens=11)
    )
    call.end(Ending.NATURAL, report)
    meter = house.metrics.request("m", "m", "default-flow", 0)
    assert (meter.ttft_streaming.total, meter.ttft.total) == ((1.0, 0.0) if stream else (0.0, 3.0))
    assert (meter.output_tokens.total, meter.answer_size.count) == (11, 0)
    assert house.inflight() == (0, 0)


def test_pauses_of_streamed_answers_are_added_up() -> None:
    house = House()
    gaps = [0] * (len(ITL_S) + 1)
    gaps[3], gaps[-1] = 5, 1
    for _ in range(2):
        call = house.open()
        call.decide(chat(stream=True))
        call.answered(AnswerHead(200, house.now, streamed=True))
        call.end(Ending.NATURAL, Report(observed=True, first_at=100.5, gaps=gaps, gaps_s=2.5))
    itl = house.metrics.request("m", "m", "default-flow", 0).itl
    assert (itl.counts[3], itl.counts[-1], itl.count, itl.total) == (10, 2, 12, 5.0)


def test_an_answer_that_was_not_seen_tells_only_its_end() -> None:
    house = House()
    played = house.play()
    played.route(chat())
    played.headers(200, JSON)
    house.now += 2.0
    played.end()
    meter = house.metrics.request("m", "m", "default-flow", 0)
    assert (meter.duration.total, meter.running) == (2.0, 0)
    assert (meter.ttft.count, meter.ttft_streaming.count, meter.output_tokens.count) == (0, 0, 0)


def test_prompts_and_snapshots_are_not_kept_for_the_life_of_a_stream() -> None:
    house = House()
    calls = []
    for _ in range(3):
        calls.append(house.play())
        calls[-1].route(chat("x" * (30 << 20)))
    requests = [played.call._request for played in calls]
    kept = [request is not None and request.prompts != () for request in requests]
    assert kept == [True, True, False], "a retry elsewhere is learned of as long as that is affordable"
    calls[0].headers()
    calls[1].end(Ending.CLIENT_DISCONNECT)
    assert house.director.kept_bytes == 0
    snapshot, alone = house.store.snapshot, builders.snapshot()
    house.decisions = house.director.decisions = DecisionLog(1)
    house.store.set_endpoints([EndpointSpec("other", "10.0.1.1", 1)], house.now)
    calls[2].headers()
    house.play().route(chat())
    assert sys.getrefcount(snapshot) == sys.getrefcount(alone)


def test_lies_about_output_do_not_reach_the_ledger() -> None:
    house = House()
    for said in (10**15, 10):
        played = house.play()
        played.route(chat())
        played.headers(200, JSON)
        played.body(json.dumps({"usage": {"prompt_tokens": 1, "completion_tokens": said}}).encode())
        played.end()
    house.play().route(chat())
    assert house.ledger.decode_tokens(house.store.snapshot.slots).sum() == 10


STEPS = st.lists(
    st.sampled_from(["decide", "headers", "5xx", "chunk", "last", "elsewhere", "gone", "end"]), max_size=8
)


@given(st.lists(STEPS, max_size=6))
def test_whatever_a_stream_does_the_ledger_comes_back_to_zero(streams: list[list[str]]) -> None:
    house = House()
    for steps in streams:
        played = house.play()
        decided = False
        for step in steps:
            if step == "decide" and not decided:
                decided = True
                played.decide(chat())
            elif step in ("headers", "5xx", "elsewhere"):
                served = "10.0.0.3:8000" if step == "elsewhere" else None
                played.headers(503 if step == "5xx" else 200, served=served)
            elif step == "gone":
                house.store.set_endpoints([EndpointSpec("other", "10.0.1.1", 1)], house.now)
            elif step in ("chunk", "last"):
                played.body(b"x", last=step == "last")
            elif step == "end":
                played.end(Ending.CLIENT_DISCONNECT)
                break
        played.end()
    assert house.inflight() == (0, 0)
    assert house.ledger.open_entries == 0
