"""What is learned of gateways, and said once."""

from __future__ import annotations

from itertools import pairwise

import pytest

from epp.datalayer.observation.gateways import Gateway, Gateways, Mode
from epp.domain.request import AnswerView

A, C, N = AnswerView.ALWAYS, AnswerView.CHOICE, AnswerView.NEVER


@pytest.mark.parametrize(
    ("mode", "effects"),
    [
        (Mode.AUTO, {A: Mode.ALL, C: Mode.SAMPLED, N: Mode.ENDS}),
        (Mode.ALL, {A: Mode.ALL, C: Mode.ALL, N: Mode.ENDS}),
        (Mode.SAMPLED, {A: Mode.ALL, C: Mode.SAMPLED, N: Mode.ENDS}),
        (Mode.ENDS, {A: Mode.ALL, C: Mode.ENDS, N: Mode.ENDS}),
    ],
)
def test_what_comes_of_the_wish_and_the_gateway(mode: Mode, effects: dict[AnswerView, Mode]) -> None:
    gateways = Gateways(mode)
    for view, effect in effects.items():
        words = gateways.meet(view)
        assert words.startswith(f"observe: {mode}: ")
        assert gateways.meet(view) == "", "said once"
        assert gateways.effect(gateways.known[view]) is effect
        assert ("docs/modes.md" in words) is (mode not in (Mode.AUTO, effect))


def test_an_ignored_override_is_found_out_and_tried_again_ever_more_rarely() -> None:
    gateways = Gateways(Mode.AUTO)
    gateways.meet(C)
    assert "allow_mode_override is off" in gateways.ignored(100.0)
    assert gateways.ignored(100.1) == "", "those that were on their way say nothing new"
    assert gateways.known[C] is Gateway.NO_OVERRIDE
    assert gateways.effect(gateways.known[C]) is Mode.ALL
    tries = [t for t in range(100, 3000) if gateways.tries(float(t))]
    assert [later - earlier for earlier, later in pairwise(tries)] == [
        60,
        120,
        240,
        480,
        960,
    ]
    assert "leave the choice" in gateways.obeyed()
    assert gateways.obeyed() == ""
    assert gateways.known[C] is Gateway.CHOICE
