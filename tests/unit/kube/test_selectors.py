"""Label selectors: what each operator matches, what is printed reads back the same, what errors name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.kube.selectors import EVERYTHING, Requirement, Selector, SelectorError, of_labels, parse

names = st.from_regex(r"[a-z0-9]([-a-z0-9_.]{0,8}[a-z0-9])?", fullmatch=True)
keys = names | st.builds("{}/{}".format, st.sampled_from(["llm-d.ai", "a.b-c.io"]), names)
values = names | st.just("")
requirements = (
    st.builds(Requirement, keys, st.sampled_from(["=", "!="]), st.tuples(values))
    | st.builds(
        Requirement,
        keys,
        st.sampled_from(["in", "notin"]),
        st.sets(values, min_size=1, max_size=4).map(lambda found: tuple(sorted(found))),
    )
    | st.builds(Requirement, keys, st.sampled_from(["exists", "!"]))
    | st.builds(Requirement, keys, st.sampled_from([">", "<"]), st.integers(-9, 9).map(lambda n: (str(n),)))
)
selectors = st.builds(Selector, st.lists(requirements, max_size=5).map(tuple))


@given(selectors)
def test_what_is_printed_reads_back_the_same(selector: Selector) -> None:
    assert parse(str(selector)) == selector


@given(selectors, st.dictionaries(keys, values, max_size=6))
def test_what_matches_has_every_pair(selector: Selector, labels: dict[str, str]) -> None:
    labels |= dict(selector.pairs)
    if selector.matches(labels):
        assert all(labels[key] == value for key, value in selector.pairs)


@given(st.text(st.sampled_from("ab/.,=!()<> \t-in"), max_size=20))
def test_any_text_is_a_selector_or_an_error_with_its_place(text: str) -> None:
    read = reading(text)
    if isinstance(read, Selector):
        assert parse(str(read)) == read
    else:
        assert "character" in read
        assert text in read


def reading(text: str) -> Selector | str:
    """What it says, or the complaint."""
    try:
        return parse(text)
    except SelectorError as error:
        return str(error)


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("a=b", {"a": "b", "c": "d"}, {"a": "c"}),
        ("a==b", {"a": "b"}, {}),
        ("a!=b", {}, {"a": "b"}),
        ("a!=b", {"a": "c"}, {"a": "b"}),
        ("a in (x, y)", {"a": "y"}, {"a": "z"}),
        ("a in (x,y)", {"a": "x"}, {}),
        ("a notin (x,y)", {}, {"a": "x"}),
        ("a", {"a": ""}, {"b": ""}),
        ("!a", {"b": ""}, {"a": ""}),
        ("a>3", {"a": "4"}, {"a": "3"}),
        ("a<3", {"a": "-4"}, {"a": "word"}),
        ("a<3", {"a": "2"}, {}),
        ("a=", {"a": ""}, {"a": "b"}),
        ("a in (x,)", {"a": ""}, {"a": "y"}),
        ("a=b, c!=d , e in (x,y),f notin (z),g,!h", {"a": "b", "e": "y", "g": "1"}, {"a": "b", "e": "y"}),
        ("in in (in)", {"in": "in"}, {"in": "x"}),
        ("llm-d.ai/role=decode", {"llm-d.ai/role": "decode"}, {"role": "decode"}),
    ],
)
def test_what_it_matches(text: str, yes: dict[str, str], no: dict[str, str]) -> None:
    selector = parse(text)
    assert selector.matches(yes)
    assert not selector.matches(no)


@pytest.mark.parametrize("text", ["", "  ", "\t\n"])
def test_no_requirement_matches_everything(text: str) -> None:
    assert parse(text) is EVERYTHING
    assert parse(text).matches({})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=b,", "character 5: expected a label key, got the end"),
        ("a b", "character 3: expected ',', '=', '!=', 'in', 'notin', '>' or '<', got 'b'"),
        ("a in x", "character 6: expected '(', got 'x'"),
        ("a in (x", "character 8: expected ')', got the end"),
        ("=b", "character 1: expected a label key, got '='"),
        ("a=b=c", "character 4: expected ',', got '='"),
        ("a>b", "character 3: expected a whole number, got 'b'"),
        ("-a=b", "character 1: '-a' is no label key"),
        ("UP.x/a=b", "what stands before '/' must be a DNS name in lower case"),
        ("a=b c", "character 5: expected ',', got 'c'"),
        ("a=" + "x" * 64, "is no label value"),
        ("a" * 20_000, "at most 16384"),
    ],
)
def test_errors_name_the_place(text: str, words: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_of_labels() -> None:
    assert str(of_labels({"b": "2", "a": "1"})) == "a=1,b=2"
    assert of_labels({"b": "2", "a": "1"}).pairs == (("a", "1"), ("b", "2"))
    with pytest.raises(SelectorError, match="no label key"):
        of_labels({"": "x"})
    with pytest.raises(SelectorError, match="no label value"):
        of_labels({"a": "x y"})
