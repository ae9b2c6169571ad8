"""The sample finder against bodies built line by line, and against rubbish."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from epp.datalayer.exposition import MAX_SAMPLES, Sample, labels_of, samples

names = st.sampled_from(["a", "ab", "a:b", "b", "a_total", "vllm:x"])
label_values = st.text(alphabet='abc }{,="\\\n #é', max_size=8)
labels = st.dictionaries(st.sampled_from(["x", "le", "model_name"]), label_values, max_size=3)
values = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-5, 10**12).map(float))
stamps = st.one_of(st.none(), st.integers(0, 2**41).map(float))
lines = st.tuples(labels, values, stamps)


def quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def written(name: str, line: tuple[dict[str, str], float, float | None]) -> str:
    held, value, stamp = line
    inside = ",".join(f'{key}="{quoted(text)}"' for key, text in held.items())
    return f"{name}{{{inside}}} {value!r}" + ("" if stamp is None else f" {stamp!r}")


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(names, st.lists(lines, min_size=1, max_size=4), max_size=5),
    names,
    st.booleans(),
    st.booleans(),
    st.integers(0, 3000),
)
def test_finds_exactly_the_samples_of_the_name(
    groups: dict[str, list[tuple[dict[str, str], float, float | None]]],
    wanted: str,
    comments: bool,
    ended: bool,
    hint: int,
) -> None:
    text: list[str] = []
    for name, group in groups.items():
        if comments:
            text += [f"# HELP {name} About {wanted} 1", f"# TYPE {name} gauge"]
        text += [written(name, line) for line in group]
    body = ("\n".join(text) + ("\n" if ended else "")).encode()
    found, next_hint = samples(body, wanted.encode(), hint)
    expected = groups.get(wanted, [])
    assert [(labels_of(s.labels), s.value, s.at) for s in found] == expected
    again, _ = samples(body, wanted.encode(), next_hint)
    assert again == found


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='a{}="\\ \t\n1.NaInf+-#,x\r', max_size=60), st.integers(0, 80))
def test_rubbish_is_read_without_an_error(text: str, hint: int) -> None:
    for sample in samples(text.encode(), b"a", hint)[0]:
        assert isinstance(sample.value, float)
        labels_of(sample.labels)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80))
def test_rubbish_labels_are_read_without_an_error(raw: bytes) -> None:
    labels_of(raw)


def test_a_name_that_only_begins_alike_is_another() -> None:
    body = b"ab 1\nabc 2\nab_total 3\nxab 4\n# ab 5\n"
    assert samples(body, b"ab")[0] == [Sample(b"", 1.0, None)]
    assert samples(body, b"a")[0] == []
    assert samples(body, b"b")[0] == []


def test_the_look_near_the_last_place_sees_the_whole_group() -> None:
    padding = b"".join(b"pad_%d 1\n" % i for i in range(2000))
    group = b"".join(b'wanted{rank="%d"} %d\n' % (i, i) for i in range(200))
    body = padding + group + padding
    found, hint = samples(body, b"wanted")
    assert [s.value for s in found] == list(range(200))
    for shift in (b"", b"pad 1\n" * 50, b"pad 1\n" * 2000):
        assert samples(shift + body, b"wanted", hint)[0] == found
    inside = body.find(b'rank="150"')
    assert samples(body, b"wanted", inside)[0] == found


def test_values_that_are_no_numbers_are_nan() -> None:
    body = b"a one\na NaN\na +Inf\na 1e999\na 0x10\n"
    found = [s.value for s in samples(body, b"a")[0]]
    assert [math.isnan(v) for v in found] == [True, True, False, False, True]
    assert found[2] == found[3] == math.inf


def test_openmetrics_exemplars_timestamps_and_line_ends() -> None:
    body = b'a{x="1 # 2"} 3 1700000000.5 # {id="}"} 0.5 1\r\na{x="2"}\t4\t5\n# EOF\n'
    assert [(labels_of(s.labels), s.value, s.at) for s in samples(body, b"a")[0]] == [
        ({"x": "1 # 2"}, 3.0, 1700000000.5),
        ({"x": "2"}, 4.0, 5.0),
    ]


def test_so_many_samples_and_no_more() -> None:
    body = b"a 1\n" * (MAX_SAMPLES + 5)
    assert len(samples(body, b"a")[0]) == MAX_SAMPLES
