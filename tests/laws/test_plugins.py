"""What every plugin of the catalog must obey, whatever it computes."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Annotated, Any, get_origin, get_type_hints

import msgspec
import numpy as np
import pytest

from epp.domain.decision import Decision, ProfileRun
from epp.plugins import PLUGINS
from epp.scheduling.contract import (
    AnswerObserver,
    ChoiceObserver,
    Filter,
    Picker,
    Producer,
    ProfileHandler,
    Scorer,
    StateDumper,
)
from epp.scheduling.scheduler import PREFIX_TOKENS
from tests.laws.world import BY_TYPE, World, build, types_with

SIZES = (0, 1, 2, 7, 60)
SEEDS = (1, 2, 3)
VECTOR_TYPES = [(name, "score") for name in types_with("score")] + [
    (name, "keep") for name in types_with("keep")
]


def ask(plugin: Any, method: str, world: World, rows: Any = None, seed: int = 1) -> Any:
    return getattr(plugin, method)(world.cycle(seed), world.rows if rows is None else rows)


def test_every_type_has_one_row_and_one_job() -> None:
    assert len(BY_TYPE) == len(PLUGINS)
    protocols = (Filter, Scorer, Picker, ProfileHandler, Producer, AnswerObserver)
    for name in BY_TYPE:
        plugin = build(name)
        assert any(isinstance(plugin, protocol) for protocol in protocols), name


@pytest.mark.parametrize("row", PLUGINS, ids=lambda row: row.type_name)
def test_parameters_are_strict_and_described(row: Any) -> None:
    config = row.parameters.__struct_config__
    assert config.frozen
    assert config.forbid_unknown_fields
    assert row.summary
    assert list(_undescribed(row.parameters)) == []
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"noSuchParameter": 1}, row.parameters)


@pytest.mark.parametrize(("name", "method"), VECTOR_TYPES)
class TestVectors:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("idle", [False, True])
    def test_shape_range_and_inputs(self, name: str, method: str, size: int, idle: bool) -> None:
        for seed in SEEDS:
            world = World(seed, size, idle=idle)
            before = world.columns()
            answer = ask(build(name), method, world)
            assert isinstance(answer, np.ndarray)
            assert answer.shape == (size,)
            if method == "keep":
                assert answer.dtype == np.bool_
            else:
                assert answer.dtype == np.float64
                assert np.isfinite(answer).all()
                assert ((answer >= 0.0) & (answer <= 1.0)).all()
            assert world.columns() == before

    def test_the_same_again(self, name: str, method: str) -> None:
        for seed in SEEDS:
            world = World(seed, 20)
            one, other = build(name), build(name)
            first = ask(one, method, world)
            assert np.array_equal(first, ask(other, method, world))
            assert np.array_equal(first, ask(one, method, world))

    @pytest.mark.parametrize("idle", [False, True])
    def test_order_of_candidates_does_not_matter(self, name: str, method: str, idle: bool) -> None:
        for seed in SEEDS:
            world = World(seed, 20, idle=idle)
            order = np.asarray(Random(seed).sample(range(20), 20))
            straight = ask(build(name), method, world)
            turned = ask(build(name), method, world, world.rows[order])
            assert np.array_equal(turned, straight[order])

    def test_answers_for_a_part_of_the_pool(self, name: str, method: str) -> None:
        world = World(5, 20)
        assert ask(build(name), method, world, np.asarray([17, 3, 8])).shape == (3,)

    def test_the_answer_belongs_to_the_caller(self, name: str, method: str) -> None:
        world = World(4, 20)
        plugin = build(name)
        first = ask(plugin, method, world)
        kept = first.copy()
        first[:] = not first[0] if method == "keep" else 0.25
        assert np.array_equal(ask(plugin, method, world), kept)


@pytest.mark.parametrize("name", types_with("pick"))
class TestPickers:
    @pytest.mark.parametrize("count", [1, 2, 50])
    def test_picks_candidates_without_repeating(self, name: str, count: int) -> None:
        world = World(1, 20)
        picker = build(name, maxNumOfEndpoints=count)
        for seed in range(20):
            rows = np.asarray(Random(seed).sample(range(20), 1 + seed % 20))
            totals = np.asarray([Random(seed + i).choice((0.0, 0.5, 1.5)) for i in range(len(rows))])
            picked = list(picker.pick(world.cycle(seed), rows, totals))
            assert picked
            assert len(picked) <= min(count, len(rows))
            assert len(set(picked)) == len(picked)
            assert set(picked) <= set(rows.tolist())

    @pytest.mark.parametrize("count", [1, 3])
    def test_the_seed_decides(self, name: str, count: int) -> None:
        world = World(2, 20)
        totals = np.ones(20)
        picker = build(name, maxNumOfEndpoints=count)
        picks = [tuple(picker.pick(world.cycle(seed), world.rows, totals)) for seed in range(60)]
        again = [tuple(picker.pick(world.cycle(seed), world.rows, totals)) for seed in range(60)]
        assert picks == again
        assert len({pick[0] for pick in picks}) > 10, "ties are spread"

    def test_does_not_touch_totals(self, name: str) -> None:
        world = World(3, 20)
        totals = np.linspace(0, 1, 20)
        totals.flags.writeable = False
        build(name, maxNumOfEndpoints=3).pick(world.cycle(), world.rows, totals)


@pytest.mark.parametrize("name", types_with("next_profiles"))
class TestHandlers:
    def test_ends_and_names_a_profile_that_ran(self, name: str) -> None:
        world = World(1, 3)
        cycle = world.cycle()
        handler = build(name)
        runs: dict[str, ProfileRun] = {}
        while new := handler.next_profiles(cycle, runs):
            assert set(new) <= set(cycle.profiles)
            assert not set(new) & set(runs)
            runs |= dict.fromkeys(new, _run(world, 0))
        assert handler.primary(cycle, runs) in runs


@pytest.mark.parametrize("name", types_with("produce"))
class TestProducers:
    @pytest.mark.parametrize("size", SIZES)
    def test_columns_fit_the_snapshot(self, name: str, size: int) -> None:
        world = World(1, size)
        before = world.columns()
        cycle = world.cycle()
        build(name).produce(cycle)
        for column in cycle.columns.values():
            assert column.shape == (size,)
            assert np.isfinite(column).all()
            assert (column >= 0).all()
        if PREFIX_TOKENS in cycle.columns:
            assert (cycle.columns[PREFIX_TOKENS] <= world.request.input_tokens).all()
        assert world.columns() == before


@pytest.mark.parametrize("name", [n for n in BY_TYPE if hasattr(build(n), "forget")])
def test_forgets_slots_that_it_never_saw(name: str) -> None:
    plugin = build(name)
    plugin.forget(0)
    plugin.forget(9999)


@pytest.mark.parametrize("name", types_with("chosen"))
def test_a_choice_can_be_told_and_forgotten(name: str) -> None:
    world = World(6, 9)
    plugin = build(name)
    assert isinstance(plugin, ChoiceObserver)
    for row in range(9):
        cycle = world.cycle(row)
        for method in ("produce", "score", "keep"):
            if hasattr(plugin, method):
                getattr(plugin, method)(*((cycle,) if method == "produce" else (cycle, world.rows)))
        plugin.chosen(cycle, _decision(world, row))
    if isinstance(plugin, StateDumper):
        msgspec.json.encode(plugin.dump_state())
    if hasattr(plugin, "forget"):
        for slot in world.snapshot.slots.tolist():
            plugin.forget(slot)
        fresh = build(name)
        for method in ("score", "keep"):
            if hasattr(plugin, method):
                assert np.array_equal(ask(plugin, method, world), ask(fresh, method, world))


@pytest.mark.parametrize("name", types_with("answer_headers"))
@pytest.mark.parametrize("served", [None, "10.9.9.9:1", "elsewhere"])
def test_answer_headers_are_text(name: str, served: str | None) -> None:
    world = World(7, 4)
    for key, value in build(name).answer_headers(world.request, _decision(world, 2), served):
        assert key == key.lower()
        assert value
        assert value.isascii()
        assert value.isprintable()


def _undescribed(struct: type) -> Iterator[str]:
    for field, hint in get_type_hints(struct, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            assert issubclass(hint, msgspec.Struct)
            yield from _undescribed(hint)
        elif not any(isinstance(extra, msgspec.Meta) and extra.description for extra in hint.__metadata__):
            yield f"{struct.__name__}.{field}"


def _run(world: World, row: int) -> ProfileRun:
    return ProfileRun("default", world.rows, (), world.rows, (), np.zeros(world.size), (row,))


def _decision(world: World, row: int) -> Decision:
    return Decision(
        request_id="r",
        at=100.0,
        model="lora-1",
        target_model="lora-1",
        snapshot=world.snapshot,
        endpoints=(world.snapshot.endpoints[row],),
        primary="default",
        runs=(_run(world, row),),
        input_tokens=world.request.input_tokens,
        cached_tokens=0,
    )
