"""Queue and Ranking against sorted lists, with anything leaving at any time."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from epp.admission.flow import Flow
from epp.admission.queue import Queue
from epp.admission.ranking import Ranking

STEPS = st.lists(st.tuples(st.sampled_from("pprx"), st.integers(0, 5)), max_size=200)


@given(STEPS, st.randoms(use_true_random=False))
def test_a_queue_gives_the_least_that_is_left(steps: list[tuple[str, int]], rng: Random) -> None:
    alive: dict[int, int] = {}
    queue: Queue[float] = Queue(alive)
    for seq, (step, key) in enumerate(steps):
        if step == "p":
            alive[seq] = key
            queue.push(key, seq)
        elif alive:
            del alive[min(alive, key=lambda s: (alive[s], s)) if step == "r" else rng.choice(list(alive))]
            queue.gone()
        least = min(((key, s) for s, key in alive.items()), default=None)
        assert queue.first() == least
        assert len(queue) == len(alive)


def test_a_queue_keeps_little_of_those_that_left() -> None:
    alive = dict.fromkeys(range(10_000))
    queue: Queue[float] = Queue(alive)
    for seq in alive:
        queue.push(float(-seq % 97), seq)
    for seq in Random(1).sample(range(10_000), 9_990):
        del alive[seq]
        queue.gone()
    assert len(queue) == 10
    assert len(queue._heap) < 50
    left = sorted((float(-seq % 97), seq) for seq in alive)
    for expected in left:
        assert queue.first() == expected
        del alive[expected[1]]
        queue.gone()
    assert queue.first() is None


@given(st.lists(st.tuples(st.sampled_from("ssd"), st.integers(0, 6), st.integers(-3, 3)), max_size=200))
def test_a_ranking_gives_the_least_key_and_the_first_of_equal_ones(steps: list[tuple[str, int, int]]) -> None:
    flows = [Flow(str(i), 0, {}) for i in range(7)]
    ranking: Ranking[float] = Ranking()
    model: dict[Flow, tuple[float, int]] = {}
    for turn, (step, i, key) in enumerate(steps):
        if step == "s":
            ranking.set(flows[i], key)
            model[flows[i]] = (key, turn)
        else:
            ranking.discard(flows[i])
            model.pop(flows[i], None)
        assert len(ranking) == len(model)
        assert all((flow in ranking) == (flow in model) for flow in flows)
        first = min(model, key=lambda flow: model[flow], default=None)
        assert ranking.first() == (None if first is None else (model[first][0], first))
