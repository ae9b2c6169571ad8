"""Metrics text against the Prometheus client library's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Official
from prometheus_client.parser import text_string_to_metric_families

from epp.sim.exposition import Exposition
from epp.sim.histogram import Histogram, one_two_five
from tests.unit.sim.shapes import engine, work

BOUNDS = (0.1, 1.0, 2.5)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 2.5, 9.0]), st.integers(1, 3)), max_size=9)
)
def test_a_histogram_counts_as_the_library_does(seen: list[tuple[float, int]]) -> None:
    registry = CollectorRegistry()
    official = Official("h", "about", ["a"], registry=registry, buckets=BOUNDS)
    ours = Histogram("h", "about", BOUNDS, 'a="50%"')
    official.labels("50%")
    for value, times in seen:
        ours.observe(value, times)
        ours.render()  # what was kept must not outlive the next observation
        for _ in range(times):
            official.labels("50%").observe(value)

    def samples(families: object) -> dict[tuple[str, str], float]:
        return {
            (s.name, s.labels.get("le", "")): round(s.value, 6)
            for family in families  # type: ignore[attr-defined]
            for s in family.samples
            if not s.name.endswith("_created") and s.labels["a"] == "50%"
        }

    assert samples(text_string_to_metric_families(ours.render())) == samples(registry.collect())
    assert ours.count == sum(times for _, times in seen)


def test_bounds_of_token_counts() -> None:
    assert one_two_five(100) == [1, 2, 5, 10, 20, 50, 100]
    assert one_two_five(49) == [1, 2, 5, 10, 20]


def test_the_text_is_kept_until_something_changes() -> None:
    one = engine()
    shown = Exposition(one, 'a "model"\\')
    first = shown.render(1.0, {})
    assert shown.render(2.0, {}) is first
    one.add(work("a"), 0.0)
    second = shown.render(3.0, {})
    assert second != first
    shown.step(one.advance())
    third = shown.render(4.0, {})
    assert third != second
    assert shown.render(4.0, {"kv": 0.5}) != third
    assert shown.render(4.0, {}) == third


def test_every_line_is_well_formed() -> None:
    one = engine(max_loras=3)
    shown = Exposition(one, 'a "model"\\')
    one.add(work("a", lora='x"y'), 0.0)
    while one.due < float("inf"):
        shown.step(one.advance())
    families = {
        family.name: family for family in text_string_to_metric_families(shown.render(5.0, {}).decode())
    }
    assert len(families) == 26
    assert families["vllm:request_success"].type == "counter"
    for family in families.values():
        assert family.documentation
        for sample in family.samples:
            assert sample.labels.get("model_name", 'a "model"\\') == 'a "model"\\'
