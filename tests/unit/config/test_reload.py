"""One pool's configuration while it runs: the active one is always the last good one."""

from __future__ import annotations

import logging
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.config.loaded import Loaded
from epp.config.problems import ConfigError
from epp.config.reload import PROBLEMS_SHOWN, ConfigWatch, Text
from tests.unit.config.configs import HEADER, TYPES


class Told:
    """Counts, as they were told."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, int, str, float]] = []
        self.refused: list[str] = []
        self.gone: list[str] = []

    def config_loaded(self, pool: str, generation: int, text: str, at: float) -> None:
        self.loaded.append((pool, generation, text, at))

    def config_refused(self, pool: str) -> None:
        self.refused.append(pool)

    def config_gone(self, pool: str) -> None:
        self.gone.append(pool)


def text(body: str, source: str = "c") -> Text:
    return Text(source, HEADER + body)


def queues(threshold: int, more: str = "") -> str:
    return (
        "plugins:\n"
        f"- {{type: utilization-detector, parameters: {{queueDepthThreshold: {threshold}}}}}\n"
        "- {type: approx-prefix-cache-producer}\n"
        f"- {{type: prefix-cache-scorer}}\n{more}"
    )


def watch(first: Text, told: Told | None = None) -> ConfigWatch:
    clock = count(1000.0)
    return ConfigWatch(first, TYPES, pool="p", counts=told, now=lambda: next(clock))


def test_a_first_that_is_wrong_is_for_the_caller() -> None:
    told = Told()
    with pytest.raises(ConfigError, match="unknown field 'plugin'"):
        watch(text("plugin: []\n"), told)
    with pytest.raises(ConfigError, match="c: no such file"):
        watch(Text("c", refused="no such file"), told)
    assert not told.loaded
    assert not told.refused


def test_a_good_one_takes_the_place() -> None:
    told, taken = Told(), list[Loaded]()
    one = watch(text(queues(1)), told)
    one.on_loaded = taken.append
    assert (one.generation, one.loaded_at, one.last_error) == (1, 1000.0, "")
    assert one.offer(text(queues(2)))
    assert taken == [one.loaded]
    assert (one.generation, one.loaded_at) == (2, 1001.0)
    assert "approx-prefix-cache-producer" in one.loaded.kept
    assert one.loaded.changes.detector
    assert told.loaded == [("p", 1, HEADER + queues(1), 1000.0), ("p", 2, HEADER + queues(2), 1001.0)]


def test_a_bad_one_is_told_with_its_places_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    told, taken = Told(), list[Loaded]()
    one = watch(text(queues(1)), told)
    one.on_loaded = taken.append
    before = one.loaded
    with caplog.at_level(logging.ERROR):
        assert not one.offer(text("plugins:\n- {type: quee-scorer}\nepp: {limit: 1}\n"))
    assert one.loaded is before
    assert not taken
    assert one.generation == 1
    assert [record.message for record in caplog.records] == [
        "configuration refused, generation 1 of pool p stays in force",
        "c:4:10: plugins[0].type: unknown plugin type 'quee-scorer'; did you mean 'queue-scorer'?",
        "c:5:7: epp.limit: unknown field 'limit'; did you mean 'limits'?",
    ]
    assert one.last_error == "\n".join(record.message for record in caplog.records[1:])
    assert told.refused == ["p"]


def test_the_same_fault_is_told_once() -> None:
    told = Told()
    one = watch(text(queues(1)), told)
    assert not one.offer(text("x: 1\n"))
    assert not one.offer(text("x: 1\n"))
    assert told.refused == ["p"]
    assert not one.offer(text("y: 1\n"))
    assert told.refused == ["p", "p"]


def test_going_back_mends_without_a_new_generation() -> None:
    told = Told()
    one = watch(text(queues(1)), told)
    before = one.loaded
    assert not one.offer(text(queues(1)))
    assert len(told.loaded) == 1
    one.offer(Text("c", refused="cannot be read: Permission denied"))
    assert one.last_error == "c: cannot be read: Permission denied"
    assert not one.offer(text(queues(1)))
    assert one.last_error == ""
    assert one.loaded is before
    assert [generation for _, generation, _, _ in told.loaded] == [1, 1]


@pytest.mark.parametrize("fault", [ValueError("no secret"), OSError(2, "No such file"), KeyError("bug")])
def test_what_cannot_be_put_into_force_is_refused(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    one = watch(text(queues(1)))
    before, faults = one.loaded, [fault]

    def adopt(loaded: Loaded) -> None:
        if faults:
            raise faults.pop()

    one.on_loaded = adopt
    assert not one.offer(text(queues(2)))
    assert one.loaded is before
    assert one.last_error == str(fault)
    assert one.generation == 1
    assert any(record.exc_info for record in caplog.records) is isinstance(fault, KeyError)
    assert one.offer(text(queues(2)))  # what it named has come meanwhile
    assert (one.generation, one.last_error) == (2, "")


def test_a_flood_of_mistakes_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    one = watch(text("plugins: []\n"))
    one.offer(text("plugins:\n" + "- {type: nope}\n" * 200))
    assert len(caplog.records) == PROBLEMS_SHOWN + 2
    assert caplog.records[-1].message.endswith("mistakes more")


def test_notices_are_told_anew(caplog: pytest.LogCaptureFixture) -> None:
    one = watch(text("plugins: []\n"))
    one.offer(text("plugins: [{type: openai-parser}]\n"))
    assert "c:3:11: plugins[0]: nothing refers to 'openai-parser'; it has no effect" in caplog.messages


NAMES = ["queue-scorer", "kv-cache-utilization-scorer", "load-aware-scorer"]
GOOD = st.tuples(
    st.integers(1, 3), st.lists(st.sampled_from(NAMES), unique=True, max_size=3), st.integers(1, 2)
)
BAD = st.sampled_from(
    [
        text("plugins: [{type: nope}]\n"),
        text("plugins: [{type: queue-scorer}, {type: queue-scorer}]\n"),
        text("plugins: [{type: approx-prefix-cache-producer, parameters: {blockSizeTokens: -1}}]\n"),
        text("featureGates: [flowControl]\nflowControl: {priorityBands: [{priority: 1}, {priority: 1}]}\n"),
        Text("c", ""),
        Text("c", "{"),
        Text("c", refused="cannot be read: No such file or directory"),
    ]
)


def written(good: tuple[int, list[str], int]) -> Text:
    threshold, scorers, blocks = good
    entries = "".join(f"- {{type: {name}}}\n" for name in scorers)
    return text(
        queues(threshold, entries).replace(
            "producer}", f"producer, parameters: {{blockSizeTokens: {16 * blocks}}}}}"
        )
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(GOOD | BAD, max_size=12))
def test_the_active_one_is_always_the_last_good_one(steps: list[tuple[int, list[str], int] | Text]) -> None:
    told = Told()
    good = (1, ["queue-scorer"], 1)
    one = watch(written(good), told)
    in_force: list[Loaded] = [one.loaded]
    one.on_loaded = in_force.append
    generation, refused = 1, False
    for step in steps:
        before = one.loaded
        took = one.offer(step if isinstance(step, Text) else written(step))
        if isinstance(step, Text):
            refused = True
            assert not took
            assert one.last_error
            assert one.loaded is before
            continue
        refused = False
        assert not one.last_error
        assert took is (step != good)
        generation += step != good
        plugins = {name: built.step.plugin for name, built in one.loaded.built.items()}
        old = {name: built.step.plugin for name, built in before.built.items()}
        assert {name for name in plugins if plugins[name] is old.get(name)} == set(
            one.loaded.kept if took else old
        )
        for name in set(plugins) & set(old):
            moved = {
                "utilization-detector": step[0] != good[0],
                "approx-prefix-cache-producer": step[2] != good[2],
                "prefix-cache-scorer": step[2] != good[2],
            }.get(name, False)
            assert (plugins[name] is old[name]) is not moved, name
        assert [name for name in plugins if name in NAMES] == step[1]
        good = step
    assert one.generation == generation
    assert one.loaded is in_force[-1]
    assert len(in_force) == generation
    assert bool(one.last_error) is refused
    assert told.loaded[-1][1] == generation
    assert told.loaded[-1][2] == written(good).text
