"""Which target a request gets: precedence, weights, and that a header's value keeps its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.datalayer.rewrites import Rewrites
from epp.domain.rewrite import Rewrite, RewriteRule, RewriteTarget

VALUES = [f"user-{number}" for number in range(2000)]


def rule(*targets: str, models: tuple[str, ...] = ()) -> RewriteRule:
    return RewriteRule(models, tuple(RewriteTarget(target) for target in targets))


def split(weights: dict[str, int | None], header: str = "") -> Rewrites:
    targets = tuple(RewriteTarget(model, weight) for model, weight in weights.items())
    return holding(Rewrite("split", (RewriteRule(("m",), targets),), hash_header=header))


def holding(*rewrites: Rewrite) -> Rewrites:
    held = Rewrites()
    held.replace(rewrites)
    return held


def target(rewrites: Rewrites, model: str = "m", value: str = "", seed: int = 0) -> str | None:
    resolved = rewrites.resolve(model, {"x-user": value} if value else {}, seed)
    return None if resolved is None else resolved.model


def by_value(weights: dict[str, int | None]) -> dict[str, str | None]:
    rewrites = split(weights, "x-user")
    return {value: target(rewrites, value=value) for value in VALUES}


def test_nothing_is_held_at_first() -> None:
    rewrites = Rewrites()
    assert not rewrites
    assert not rewrites.generic
    assert target(rewrites) is None
    assert rewrites.names == frozenset()


def test_a_set_replaces_the_one_before() -> None:
    rewrites = holding(Rewrite("a", (rule("t", models=("m", "n")),)))
    assert target(rewrites, "n") == "t"
    rewrites.replace([Rewrite("b", (rule("u", models=("m",)), rule("g")))])
    assert (target(rewrites, "m"), target(rewrites, "n"), target(rewrites, "")) == ("u", "g", "g")
    assert rewrites.names == {"m", "u", "g"}
    rewrites.replace([])
    assert target(rewrites) is None
    assert not rewrites.generic


def test_observers_are_told_every_name() -> None:
    told: list[frozenset[str]] = []
    rewrites = Rewrites()
    rewrites.observe(told.append)
    rewrites.replace([Rewrite("b", (rule("u", models=("m", "n")), rule("g")))])
    assert told == [set(), {"m", "n", "u", "g"}]


def test_exact_beats_generic_whatever_its_age() -> None:
    rewrites = holding(
        Rewrite("old", (rule("generic"),), "2020-01-01T00:00:00Z"),
        Rewrite("new", (rule("exact", models=("m",)),), "2026-01-01T00:00:00Z"),
    )
    assert (target(rewrites, "m"), target(rewrites, "x"), target(rewrites, "")) == (
        "exact", "generic", "generic",
    )  # fmt: skip


def test_what_a_name_stands_for() -> None:
    rewrites = split({"a": 3, "b": None, "c": 1})
    assert list(rewrites.models) == ["m"]
    assert rewrites.shares("m") == {"a": 3, "c": 1}
    assert rewrites.shares("x") is None
    rewrites.replace([Rewrite("g", (rule("t"),))])
    assert list(rewrites.models) == []
    assert rewrites.shares("x") == {"t": 1}


RULES = st.lists(
    st.builds(
        rule,
        st.sampled_from(["t1", "t2", "t3"]),
        models=st.lists(st.sampled_from(["a", "b"]), max_size=2).map(tuple),
    ),
    max_size=3,
).map(tuple)
REWRITES = st.lists(
    st.builds(Rewrite, st.text("xyz", min_size=1, max_size=3), RULES, st.sampled_from(["", "1", "2"])),
    unique_by=lambda one: one.name,
    max_size=6,
)


def expected(rewrites: Sequence[Rewrite], model: str) -> tuple[str, str] | None:
    """Target and rewrite, by the words of the rule book."""
    every = [
        (bool(one.models) is False, rewrite.created_at, rewrite.name, place, one.targets[0].model)
        for rewrite in rewrites
        for place, one in enumerate(rewrite.rules)
        if model in one.models or not one.models
    ]
    first = min(every, default=None)
    return None if first is None else (first[4], first[2])


@given(REWRITES, st.randoms(use_true_random=False), st.sampled_from(["a", "b", "c", ""]))
def test_precedence(rewrites: list[Rewrite], shuffled: object, model: str) -> None:
    """Exact, then oldest, then by name, then the order in the object; not the order of arrival."""
    assert hasattr(shuffled, "shuffle")
    wanted = expected(rewrites, model)
    shuffled.shuffle(rewrites)
    resolved = holding(*rewrites).resolve(model, {}, 0)
    assert (None if resolved is None else (resolved.model, resolved.rewrite)) == wanted


def test_of_one_name_the_first_counts() -> None:
    rewrites = holding(
        Rewrite("a", (rule("t", models=("m",)),), "2"), Rewrite("a", (rule("u", models=("m",)),), "1")
    )
    assert target(rewrites) == "t"
    assert len(rewrites) == 1


def test_weights_are_shares_of_chance() -> None:
    rewrites = split({"a": 900, "b": 100})
    drawn = Counter(target(rewrites, seed=seed) for seed in range(4000))
    assert 320 < drawn["b"] < 480  # 4 standard deviations around 400


def test_without_weights_all_share_alike() -> None:
    drawn = Counter(
        target(split({"a": None, "b": None, "c": None, "d": None}), seed=seed) for seed in range(4000)
    )
    assert all(890 < drawn[model] < 1110 for model in "abcd")


def test_where_some_have_weights_the_others_get_nothing() -> None:
    for header in ("", "x-user"):
        rewrites = split({"a": None, "b": 1, "c": 1}, header)
        assert {target(rewrites, value=value, seed=seed) for seed, value in enumerate(VALUES)} == {"b", "c"}


def test_a_target_named_twice_has_both_shares() -> None:
    targets = (RewriteTarget("a", 1), RewriteTarget("b", 1), RewriteTarget("a", 2))
    for header in ("", "x-user"):
        rewrites = holding(Rewrite("r", (RewriteRule(("m",), targets),), hash_header=header))
        drawn = Counter(target(rewrites, value=value, seed=seed) for seed, value in enumerate(VALUES))
        assert 1420 < drawn["a"] < 1580


@given(st.integers(), st.text())
def test_the_same_arguments_have_the_same_answer(seed: int, value: str) -> None:
    weights: dict[str, int | None] = {"a": 3, "b": 2, "c": 1}
    for header in ("", "x-user"):
        assert target(split(weights, header), value=value, seed=seed) == target(
            split(weights, header), value=value, seed=seed
        )


@given(st.integers(0, 2**64 - 1), st.text(min_size=1))
def test_a_headers_value_is_stronger_than_chance(seed: int, value: str) -> None:
    rewrites = split({"a": 3, "b": 2, "c": 1}, "x-user")
    assert target(rewrites, value=value, seed=seed) == target(rewrites, value=value, seed=0)


def test_without_the_header_chance_decides() -> None:
    rewrites = split({"a": 1, "b": 1}, "x-user")
    assert {target(rewrites, seed=seed) for seed in range(50)} == {"a", "b"}


def test_the_shares_of_values_are_the_weights() -> None:
    drawn = Counter(by_value({"a": 900, "b": 100}).values())
    assert 146 < drawn["b"] < 254  # 4 standard deviations around 200


WEIGHTS = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 100), min_size=2)


@given(WEIGHTS, st.data())
def test_a_weight_that_grows_moves_only_those_who_come_to_it(
    weights: dict[str, int], data: st.DataObject
) -> None:
    grown = data.draw(st.sampled_from(sorted(weights)))
    before = by_value(dict(weights))
    after = by_value({**weights, grown: weights[grown] + data.draw(st.integers(1, 100))})
    assert all(after[value] in (before[value], grown) for value in VALUES)


@given(WEIGHTS, st.data())
def test_a_target_that_goes_moves_only_its_own(weights: dict[str, int], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(weights)))
    before = by_value(dict(weights))
    after = by_value({model: weight for model, weight in weights.items() if model != gone})
    if len(weights) > 1:
        assert all(after[value] == before[value] for value in VALUES if before[value] != gone)


def test_no_more_move_than_must() -> None:
    before, after = by_value({"a": 90, "b": 10}), by_value({"a": 90, "b": 30})
    moved = sum(before[value] != after[value] for value in VALUES)
    assert 230 < moved < 370  # from a tenth to a quarter: 300


@pytest.mark.parametrize("value", ["", "\ud800", "é", "x" * 10_000])
def test_any_value_of_the_header_will_do(value: str) -> None:
    rewrites = split({"a": 1, "b": 1}, "x-user")
    assert target(rewrites, value=value) in ("a", "b")
