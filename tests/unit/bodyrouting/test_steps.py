"""`--plugin` values."""

from __future__ import annotations

import pytest

from epp.bodyrouting.steps import DEFAULT, MAX_STEPS, Step, read_steps


def test_without_plugins_the_model_and_its_base_are_told() -> None:
    assert read_steps([]) == DEFAULT
    assert [(step.field, step.header) for step in DEFAULT] == [
        ("model", "X-Gateway-Model-Name"),
        ("model", "X-Gateway-Base-Model-Name"),
    ]


def test_plugins_as_the_reference_writes_them() -> None:
    field = 'body-field-to-header:who:{"fieldName":"user","headerName":"X-User"}'
    assert read_steps([field, "base-model-to-header:mapper"]) == (
        Step("body-field-to-header", "who", "user", "X-User"),
        Step("base-model-to-header", "mapper", "model", "X-Gateway-Base-Model-Name"),
    )


def test_a_colon_may_stand_in_the_parameters() -> None:
    (step,) = read_steps(['body-field-to-header:a:{"fieldName":"x:y","headerName":"x-a"}'])
    assert step.field == "x:y"


def field_plugin(name: str = "a", header: str = "x-a") -> str:
    return f'body-field-to-header:{name}:{{"fieldName":"f","headerName":"{header}"}}'


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["body-feld-to-header:a"], "did you mean 'body-field-to-header'?"),
        (["guardrail:g"], "there are 'body-field-to-header' or 'base-model-to-header'"),
        (["base-model-to-header"], "has no name"),
        (['base-model-to-header:a:{"x":"y"}'], "takes no parameters"),
        (["body-field-to-header:a"], "fieldName is missing or empty"),
        (['body-field-to-header:a:{"fieldName":"f"}'], "headerName is missing or empty"),
        (['body-field-to-header:a:{"fieldName":"","headerName":"x"}'], "fieldName is missing or empty"),
        (['body-field-to-header:a:{"fieldname":"f"}'], "did you mean 'fieldName'?"),
        (["body-field-to-header:a:{"], "not a JSON object"),
        (['body-field-to-header:a:["f"]'], "not a JSON object"),
        (['body-field-to-header:a:{"fieldName":"a\\"b","headerName":"x"}'], "a quote, a backslash"),
        ([field_plugin(header="x a")], "no name of a header"),
        ([field_plugin(header=":path")], "no name of a header"),
        ([field_plugin(header="Content-Length")], "not to be set"),
        ([field_plugin(header="X-Gateway-Destination-Endpoint-Subset")], "not to be set"),
        ([field_plugin(header="x-envoy-retry-on")], "not to be set"),
        ([field_plugin(), field_plugin(header="x-b")], "another plugin has the name 'a'"),
        ([field_plugin(), field_plugin("b", "X-A")], "'a' sets the header X-A already"),
        ([field_plugin(f"n{i}", f"x-{i}") for i in range(MAX_STEPS + 1)], "at most 32"),
    ],
)
def test_what_is_wrong_is_said(texts: list[str], complaint: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is looked at
        read_steps(texts)
    assert complaint in str(error.value)
