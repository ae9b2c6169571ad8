"""Strict types: every mistake has its place, and one does not hide the next."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from epp.config.decode import BAD, FieldError, Spelling, decode
from epp.config.problems import Mark, Report
from epp.config.text import parse


class Inner(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    max_items: Annotated[int, Meta(ge=1, le=9)] = 3
    mode: Literal["fast", "slow"] = "fast"


class Outer(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    name: str
    share: float = 0.5
    inner: Inner = Inner()
    inners: list[Inner] = []
    words: Annotated[tuple[str, ...], Meta(max_length=2)] = ()
    labels: dict[str, int] = {}
    maybe: Inner | None = None
    loud: Annotated[str, Spelling("word", lambda written: str(written).upper())] = ""
    either: int | str = 0

    def __post_init__(self) -> None:
        if self.share > 1:
            raise FieldError("share", "more than all")
        if self.name == "bad":
            raise ValueError("a bad name")


def read(text: str) -> tuple[Any, list[str]]:
    value, report = parse(text, "c")
    result = decode(value, Outer, (), report)
    return result, [str(problem) for problem in report.problems]


def test_a_right_document() -> None:
    got, problems = read(
        "{name: n, share: 1, inner: {maxItems: 5}, inners: [{mode: slow}], words: [a], labels: {a: 1},"
        " maybe: null, loud: hi, either: x}"
    )
    assert not problems
    assert got == Outer(
        name="n", share=1.0, inner=Inner(5), inners=[Inner(mode="slow")], words=("a",), labels={"a": 1},
        loud="HI", either="x",
    )  # fmt: skip
    assert isinstance(got.share, float)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "c:1:1: 'name' is required"),
        ("[]", "c:1:1: expected a mapping, got a list"),
        ("{name: 5}", "c:1:8: name: expected `str`, got `int`: 5"),
        (
            "{name: a, inner: {maxItem: 5}}",
            "c:1:19: inner.maxItem: unknown field 'maxItem'; did you mean 'maxItems'?",
        ),
        ("{name: a, inner: {maxItems: 0}}", "c:1:29: inner.maxItems: expected `int` >= 1, got 0"),
        (
            "{name: a, inner: {mode: fats}}",
            "c:1:25: inner.mode: 'fats' is not 'fast' or 'slow'; did you mean 'fast'?",
        ),
        ("{name: a, inners: {}}", "c:1:19: inners: expected a list, got a mapping"),
        ("{name: a, words: [x, y, z]}", "c:1:18: words: takes at most 2 item(s), has 3"),
        ("{name: a, labels: {b: c}}", "c:1:23: labels.b: expected `int`, got `str`: 'c'"),
        ("{name: a, either: []}", "c:1:19: either: expected `int | str`, got `array`"),
        ("{name: a, share: 2}", "c:1:18: share: more than all"),
        ("{name: bad}", "c:1:1: a bad name"),
    ],
)
def test_each_mistake_has_its_place(text: str, expected: str) -> None:
    assert read(text)[1] == [expected]


def test_an_unknown_field_of_a_type_without_any_says_so() -> None:
    class Nothing(msgspec.Struct, forbid_unknown_fields=True):
        pass

    report = Report("c", {(): Mark(1, 1)})
    decode({"a": 1}, Nothing, (), report)
    assert [str(problem) for problem in report.problems] == ["c:1:1: a: unknown field 'a'; it takes none"]


def test_all_mistakes_are_found_at_once_and_indices_stay_right() -> None:
    _, problems = read("name: a\nshare: x\ninners:\n- 5\n- {mode: slow}\n- {maxItems: 10}\nshares: 1\n")
    assert [problem.split(": ")[1] for problem in problems] == [
        "shares",
        "share",
        "inners[0]",
        "inners[2].maxItems",
    ]


def test_null_is_the_default() -> None:
    got, problems = read("{name: a, inner: null, share: ~}")
    assert not problems
    assert got == Outer(name="a")


def test_a_required_field_that_is_wrong_gives_nothing() -> None:
    got, problems = read("{name: []}")
    assert got is BAD
    assert len(problems) == 1


def test_types_that_are_left_to_msgspec_still_have_paths() -> None:
    report = Report("c", {(): Mark(1, 1), ("a",): Mark(2, 2), ("a", 1): Mark(3, 3)})
    decode([1, "x"], set[int], ("a",), report)
    assert str(report.problems[0]) == "c:3:3: a[1]: expected `int`, got `str`"
