from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.errors import Reason
from epp.domain.request import Api
from epp.parsing.multipart import form_fields
from epp.parsing.rewrite import splice_model
from tests.unit.parsing.bodies import parse, refusal

PATH = "/v1/audio/transcriptions"
HEADERS = {"content-type": 'multipart/form-data; charset=utf-8; boundary="b-1"'}


def form(*parts: tuple[str, bytes], preamble: bytes = b"") -> bytes:
    out = preamble
    for disposition, value in parts:
        out += (
            b"--b-1\r\nContent-Disposition: form-data; "
            + disposition.encode()
            + b"\r\n\r\n"
            + value
            + b"\r\n"
        )
    return out + b"--b-1--\r\n"


FILE = ('name="file"; filename="a name=model.wav"\r\nContent-Type: audio/wav', b"\r\n--b-2\r\n\0\xff" * 1000)
MODEL = ('name="model"', b"whisper")


@pytest.mark.parametrize("preamble", [b"", b"\r\n", b"ignored\r\n"])
def test_model_beside_the_file(preamble: bytes) -> None:
    body = form(FILE, MODEL, ("name=stream", b"true"), ('name="language"', b""), preamble=preamble)
    request = parse(PATH, body, headers=HEADERS)
    assert (request.api, request.model, request.stream) == (Api.AUDIO, "whisper", True)
    spliced = splice_model(body, request.model_span, "other/name")
    assert spliced == body.replace(b"whisper", b"other/name")


def test_json_instead_of_a_form() -> None:
    assert parse(PATH, {"model": "m"}).model == "m"


def test_last_of_repeated_fields_counts_and_empty_ones_are_missing() -> None:
    assert parse(PATH, form(MODEL, ('name="model"', b"b")), headers=HEADERS).model == "b"
    assert refusal(PATH, form(FILE), headers=HEADERS).reason is Reason.MODEL_MISSING
    assert refusal(PATH, form(FILE, ('name="model"', b"")), headers=HEADERS).reason is Reason.MODEL_MISSING
    assert parse(PATH, form(FILE), headers={**HEADERS, "x-llm-d-model-name-rewrite": "t"}).model == ""


def test_name_that_looks_quoted_has_no_place_to_splice() -> None:
    request = parse(PATH, form(('name="model"', b'"m"')), headers=HEADERS)
    assert (request.model, request.model_span) == ('"m"', None)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"x", b"--b-1", b"--b-1\r\n", form(MODEL)[:-10], form(('name="model"', b"\xff")),
        form(*[('name="x"', b"")] * 300), b"--b-1\r\n" + b"h" * 5000 + b"\r\n\r\nx\r\n--b-1--",
    ],
)  # fmt: skip
def test_malformed_forms(body: bytes) -> None:
    assert refusal(PATH, body, headers=HEADERS).reason is Reason.MALFORMED


def test_form_without_boundary() -> None:
    assert refusal(PATH, form(MODEL), headers={"content-type": "multipart/form-data"}).param == "content-type"


def test_cut_form() -> None:
    body = form(MODEL, FILE)
    assert parse(PATH, body[:200], headers=HEADERS, truncated=True).model == "whisper"
    late = form(FILE, MODEL)[:2000]
    assert parse(PATH, late, headers=HEADERS, truncated=True).model == ""
    named = {**HEADERS, "x-gateway-model-name": "m"}
    assert parse(PATH, late, headers=named, truncated=True).model == "m"


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "model"]), st.binary(max_size=30)), max_size=6), st.data()
)
def test_fields_are_found_whatever_they_hold(parts: list[tuple[str, bytes]], data: st.DataObject) -> None:
    parts = [(name, value) for name, value in parts if b"--b-1" not in value]
    body = form(*[(f'name="{name}"', value) for name, value in parts])
    found = {name: body[slice(*span)] for name, span in form_fields(body, b"b-1", False).items()}
    assert found == {name.encode(): value for name, value in parts}
    form_fields(body[: data.draw(st.integers(0, len(body)))], b"b-1", True)
