"""Where stored answers live, and how long answers are."""

from __future__ import annotations

from epp.datalayer.homes import Homes
from epp.datalayer.outputs import START_TOKENS, OutputLengths


def test_homes_keep_the_most_recently_used() -> None:
    homes = Homes(capacity=2)
    homes.remember("a", "default/one")
    homes.remember("b", "default/two")
    assert homes.of("a") == "default/one"
    homes.remember("c", "default/three")
    assert homes.of("b") is None
    assert homes.of("a") == "default/one"
    assert len(homes) == 2


def test_ids_that_no_engine_makes_are_not_kept() -> None:
    homes = Homes()
    homes.remember("", "x")
    homes.remember("r" * 10_000, "x")
    assert len(homes) == 0


def test_output_lengths_follow_what_was_seen_and_respect_the_limit() -> None:
    outputs = OutputLengths()
    assert outputs.expected("m", None) == START_TOKENS
    assert outputs.expected("m", 16) == 16
    for _ in range(200):
        outputs.saw("m", 1000)
    assert outputs.expected("m", None) == 1000
    outputs.saw("m", 0)
    assert 900 < outputs.expected("m", None) < 1000


def test_models_that_clients_make_up_are_bounded() -> None:
    outputs = OutputLengths()
    for i in range(5000):
        outputs.saw(f"model-{i}", 7)
    assert outputs.expected("model-0", None) == 7
    assert outputs.expected("model-4999", None) == START_TOKENS
