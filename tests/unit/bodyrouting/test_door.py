"""What the door makes of bodies."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.bodyrouting.fields import MAX_VALUE_BYTES
from epp.bodyrouting.steps import Step
from epp.domain.errors import Answer, Reason, Refused
from epp.domain.views import AnswerHead, Ending, Report, Route
from tests.unit.bodyrouting.doors import JSON, decided, door, head, number, refused, told

TOO_LONG = "`model` is longer than 4096 bytes."
MODEL, BASE = "X-Gateway-Model-Name", "X-Gateway-Base-Model-Name"


@pytest.mark.parametrize(
    ("model", "base"), [("qwen", "qwen"), ("foo", "qwen"), ("sql-lora-sheddable", "qwen"), (" foo ", "qwen")]
)
def test_a_model_and_its_base(model: str, base: str) -> None:
    made = door()
    assert told(made, json.dumps({"prompt": "hi", "model": model}).encode()) == (
        {MODEL: model, BASE: base},
        [],
    )
    assert number(made, "bbr_success_total") == 1


def test_an_unknown_model_has_no_base() -> None:
    made = door()
    assert told(made, b'{"model": "other"}') == ({MODEL: "other"}, [BASE])
    assert number(made, "bbr_success_total") == 1


@pytest.mark.parametrize(
    "body", [b"{}", b'{"prompt": {"model": "x"}}', b'{"model": ["x"]}', b'{"model": {}}', b""]
)
def test_without_a_model_both_headers_are_taken_off(body: bytes) -> None:
    made = door()
    assert told(made, body) == ({}, [MODEL, BASE])
    assert number(made, "bbr_success_total") == 0
    assert number(made, 'bbr_body_field_not_found_total{field="model"}') == 1
    assert number(made, 'bbr_body_field_empty_total{field="model"}') == 0


@pytest.mark.parametrize("value", [b'""', b"null"])
def test_an_empty_model_is_counted_apart(value: bytes) -> None:
    made = door()
    assert told(made, b'{"model": ' + value + b"}") == ({}, [MODEL, BASE])
    assert number(made, 'bbr_body_field_empty_total{field="model"}') == 1
    assert number(made, 'bbr_body_field_not_found_total{field="model"}') == 0


def test_of_repeated_fields_the_last_counts_as_it_does_for_engines() -> None:
    assert told(door(), b'{"model": "foo", "model": "secret"}')[0] == {MODEL: "secret"}


def test_numbers_and_booleans_are_told_as_they_are_written() -> None:
    steps = [Step("body-field-to-header", name, name, f"x-{name}") for name in ("n", "t", "f", "s")]
    assert told(door(steps), b'{"n": 1.50e3, "t": true, "f":false, "s": "\\u00fc\\n"}')[0] == {
        "x-n": "1.50e3", "x-t": "true", "x-f": "false", "x-s": "\u00fc\n",
    }  # fmt: skip


def test_a_body_that_is_shown_and_not_copied() -> None:
    body = b'{"messages": "' + b"x" * 200_000 + b'", "model": "foo"}'
    assert told(door(), memoryview(body))[0] == {MODEL: "foo", BASE: "qwen"}


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b'{"model": ', "The request body is not valid JSON: Input data was truncated.", None),
        (b"[]", "The request body must be a JSON object: Expected `object`, got `array`.", None),
        (b'{"model": "\xff"}', "not valid", "model"),
        (
            b'{"model": "' + b"x" * (MAX_VALUE_BYTES + 1) + b'"}',
            TOO_LONG,
            "model",
        ),
        (b'{"model": "' + "\u00fc".encode() * 2049 + b'"}', TOO_LONG, "model"),
        (b'{"model": ' + b"9" * (MAX_VALUE_BYTES + 1) + b"}", TOO_LONG, "model"),
    ],
)
def test_what_no_gateway_could_route_is_refused(body: bytes, message: str, param: str | None) -> None:
    made = door()
    status, said, blamed = refused(made, body)
    assert status == 400
    assert message in said
    assert blamed == param
    assert number(made, 'epp_refusals_total{reason="invalid_request",status="400"}') == 1


def test_a_value_as_long_as_may_be() -> None:
    model = "x" * MAX_VALUE_BYTES
    assert told(door(), b'{"model": "%s"}' % model.encode())[0] == {MODEL: model}
    escaped = b'{"model": "' + b"\\u0041" * MAX_VALUE_BYTES + b'"}'
    assert told(door(), escaped)[0] == {MODEL: "A" * MAX_VALUE_BYTES}


def test_a_field_that_is_spelled_with_escapes() -> None:
    assert told(door(), b'{"model": "foo", "mod\\u0065l": "qwen"}')[0] == {MODEL: "qwen", BASE: "qwen"}


def test_a_compressed_body_is_named() -> None:
    status, said, _ = refused(door(), b"\x1f\x8b\x00", {**JSON, "content-encoding": "gzip"})
    assert (status, said) == (400, "Request bodies with content-encoding 'gzip' are not supported.")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/problem+json", "APPLICATION/JSON", ""]
)
def test_what_says_that_it_is_json_must_be(content_type: str) -> None:
    headers = {":method": "POST", "content-type": content_type}
    assert told(door(), b'{"model": "foo"}', headers)[0] == {MODEL: "foo", BASE: "qwen"}
    assert refused(door(), b"model=foo", headers)[0] == 400


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b' {"model": "foo"}', {MODEL: "foo", BASE: "qwen"}),
        (b'{"model": ', {}),
        (b"model=foo", {}),
        (b"\x00\x00\x00\x00\x02{}", {}),
        (b" " * 100 + b'{"model": "foo"}', {}),
    ],
)
def test_other_types_are_read_where_they_can_be(body: bytes, found: dict[str, str]) -> None:
    """`curl -d` says that it sends a form."""
    headers = {":method": "POST", "content-type": "application/x-www-form-urlencoded"}
    assert told(door(), body, headers)[0] == found


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n{"model": "no"}\r\n'
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nfoo\r\n--b--\r\n'
)


def test_a_form_with_a_model() -> None:
    for content_type in ("multipart/form-data; boundary=b", 'Multipart/Form-Data; x=y; boundary="b"'):
        assert told(door(), FORM, {"content-type": content_type})[0] == {MODEL: "foo", BASE: "qwen"}
    assert (
        told(door(), memoryview(FORM), {"content-type": "multipart/form-data; boundary=b"})[0][MODEL] == "foo"
    )


@pytest.mark.parametrize(
    ("body", "content_type", "complaint"),
    [
        (FORM, "multipart/form-data", "has no boundary"),
        (FORM, "multipart/form-data; boundary=c", "not well formed"),
        (FORM.replace(b"foo", b"\xff"), "multipart/form-data; boundary=b", "`model` is not valid UTF-8"),
    ],
)
def test_a_form_that_is_none(body: bytes, content_type: str, complaint: str) -> None:
    status, said, _ = refused(door(), body, {"content-type": content_type})
    assert status == 400
    assert complaint in said


def test_the_first_part_of_a_body_is_read_as_far_as_it_goes() -> None:
    assert told(door(), b'{"model": "foo", "prompt": "onc', truncated=True)[0] == {MODEL: "foo", BASE: "qwen"}
    assert told(door(), b'{"prompt": "onc', truncated=True) == ({}, [MODEL, BASE])
    assert told(door(), b'{"model": "fo', truncated=True) == ({}, [MODEL, BASE])
    form = {"content-type": "multipart/form-data; boundary=b"}
    assert told(door(), FORM[:100], form, truncated=True) == ({}, [MODEL, BASE])


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_requests_without_a_body_pass_and_what_the_client_said_does_not(method: str) -> None:
    made = door()
    assert told(made, b"x", {**JSON, ":method": method}) == ({}, [MODEL, BASE])
    route = made.open(head(has_body=False)).decide(b"")
    assert isinstance(route, Route)
    assert list(route.remove_headers) == [MODEL, BASE]
    assert number(made, 'bbr_body_field_not_found_total{field="model"}') == 0


def test_a_gateway_that_shows_bodies_too_late_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    made = door()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert told(made, b"", truncated=True) == ({}, [MODEL, BASE])
    assert [record.message.count("in time") for record in caplog.records] == [1]
    assert number(made, "epp_bodies_not_shown_total") == 3


def test_the_transports_limits_are_refused_in_the_same_shape() -> None:
    made = door()
    for call in (made.open(head()), made.open_answer()):
        answer = call.refuse(Refused(Reason.BODY_TOO_LARGE, "too large"))
        assert isinstance(answer, Answer)
        assert answer.status == 413
    assert number(made, 'epp_refusals_total{reason="request_too_large",status="413"}') == 2


def test_an_answer_that_comes_by_all_the_same() -> None:
    call = door().open_answer()
    call.allow(("10.0.0.1:1",))
    assert call.refuse_early() is None
    assert call.answered(AnswerHead(200, 1.0)) == ()
    call.first_token(1.0)
    call.end(Ending.NATURAL, Report())


def test_debug_lines_name_headers_and_no_values(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        told(door(), b'{"model": "foo"}')
        told(door(), b"{}")
    assert [record.message for record in caplog.records] == [
        "r1: X-Gateway-Model-Name, X-Gateway-Base-Model-Name set",
        "r1: nothing set",
    ]


def test_each_plugin_is_timed() -> None:
    made = door()
    told(made, b'{"model": "foo"}')
    for kind, name in [("body-field-to-header", "model-to-header"), ("base-model-to-header",) * 2]:
        labels = f'{{extension_point="request",plugin_type="{kind}",plugin_name="{name}"}}'
        assert number(made, f"bbr_plugin_duration_seconds_count{labels}") == 1
        assert number(made, f"bbr_plugin_duration_seconds_sum{labels}") == 1.0


NAMES = st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cc", "Cs"]), min_size=1)
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=20)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.booleans())
def test_any_field_of_any_object(fields: dict[str, object], escaped: bool) -> None:
    steps = [Step("body-field-to-header", f"p{i}", name, f"x-{i}") for i, name in enumerate(fields)]
    expected = {}
    for step in steps:
        value = fields[step.field]
        text = value if isinstance(value, str) else json.dumps(value)
        if value is not None and text:
            expected[step.header] = text
    body = json.dumps(fields, ensure_ascii=escaped).encode()
    assert told(door(steps), body)[0] == expected


TYPES = ["application/json", "multipart/form-data; boundary=b", "x/y"]


@given(st.binary(max_size=60), st.sampled_from(TYPES))
def test_no_body_breaks_it(body: bytes, content_type: str) -> None:
    for truncated in (False, True):
        assert decided(door(), body, {"content-type": content_type}, truncated=truncated) is not None
