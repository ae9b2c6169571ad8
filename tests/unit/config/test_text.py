"""YAML text -> values with places."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from epp.config.problems import ConfigError, Mark
from epp.config.text import MAX_CHARACTERS, parse


def problems(text: str) -> list[str]:
    try:
        _, report = parse(text, "c.yaml")
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return [str(problem) for problem in report.problems]


def value(text: str) -> Any:
    parsed, report = parse(text, "c.yaml")
    assert not report.problems
    return parsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("-12", -12),
        ("0x1f", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1e3", 1000.0),
        ("2.", 2.0),
        ("007", "007"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("1_000", "1_000"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("=", "="),
        ("200ms", "200ms"),
    ],
)
def test_words_have_their_plain_meaning(text: str, expected: Any) -> None:
    got = value(f"- {text}")[0]
    assert got == expected
    assert type(got) is type(expected)


def test_every_value_and_key_has_its_place() -> None:
    _, report = parse("a:\n  - b: 1\n    c: [x, y]\n", "c.yaml")
    assert report.marks[("a", 0, "b")] == Mark(2, 8)
    assert report.keys[("a", 0, "c")] == Mark(3, 5)
    assert report.marks[("a", 0, "c", 1)] == Mark(3, 12)


def test_keys_are_words_whatever_they_look_like() -> None:
    assert value("8000: a\ntrue: b\n") == {"8000": "a", "true": "b"}


def test_a_duplicate_key_names_both_places() -> None:
    assert problems("a: 1\nb: 2\na: 3\n") == ["c.yaml:3:1: a: duplicate key 'a', first used in line 1"]


def test_merges_fill_what_is_not_set() -> None:
    text = "base: &b {x: 1, y: 2}\nnew:\n  <<: *b\n  y: 3\nboth: {<<: [*b, {z: 4}]}\n"
    assert value(text)["new"] == {"x": 1, "y": 3}
    assert value(text)["both"] == {"x": 1, "y": 2, "z": 4}
    assert problems("a: {<<: 5}") == ["c.yaml:1:4: a: '<<' takes a mapping"]


@pytest.mark.parametrize("number", [".inf", "-.INF", ".nan", "1e999"])
def test_numbers_are_finite(number: str) -> None:
    assert problems(f"a: {number}") == [f"c.yaml:1:4: a: '{number}' is not a finite number"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: [1", "c.yaml:1:6", "expected ',' or ']'"),
        ("a:\n\t- 1", "c.yaml:2:1", "cannot start any token"),
        ("a: 1\n---\nb: 2", "c.yaml:2:1", "expected a single document"),
        ("a: *nobody", "c.yaml:1:4", "undefined alias"),
        ("a: \x07", "c.yaml", "not allowed"),
    ],
)
def test_text_that_is_no_yaml_is_placed(text: str, place: str, words: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(place + ":")
    assert words in problem


def test_unknown_tags_are_refused() -> None:
    assert problems("a: !x 1") == ["c.yaml:1:4: a: the YAML tag '!x' has no meaning here"]
    assert "python/name:os.system' has no meaning here" in problems("a: !!python/name:os.system x")[0]


@pytest.mark.parametrize(
    "text",
    ["[" * 100 + "]" * 100, "[" * 600, "a: &a [*a]", "{a: " * 400 + "}" * 400],
    ids=["deep", "very deep", "loop", "deep maps"],
)
def test_depth_is_bounded(text: str) -> None:
    assert "nested deeper" in problems(text)[0]


def test_expansion_by_aliases_is_bounded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)]
    assert "more than 100000 values" in problems("\n".join(lines))[0]


def test_size_and_digits_are_bounded() -> None:
    assert "longer than" in problems("#" * (MAX_CHARACTERS + 1))[0]
    assert "more than 64 digits" in problems("a: " + "9" * 5000)[0]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(codec="ascii", categories=["L"]), max_size=5), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_json_is_read_as_json(document: Any) -> None:
    assert value(json.dumps({"top": document})) == {"top": document}


@given(json_values)
def test_what_yaml_writes_is_read_back(document: Any) -> None:
    # PyYAML writes texts such as 0E0 without quotes, which are numbers in YAML 1.2 and here.
    assume(not re.search(r'"[-+.]?[0-9]', json.dumps(document)))
    assert value(yaml.safe_dump({"top": document}, allow_unicode=True)) == {"top": document}


@given(st.text(max_size=60))
def test_no_text_raises_anything_but_config_errors(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text, "c.yaml")
