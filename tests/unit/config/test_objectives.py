"""InferenceObjective documents: what is read, what is passed by, and what every complaint names."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.objectives import read_objectives
from epp.datalayer.objectives import ObjectivesError, ObjectivesRead

HEAD = "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\n"


def objective(name: str, spec: str = "priority: 1, poolRef: {name: p}", head: str = HEAD) -> str:
    return f"{head}metadata: {{name: {name}}}\nspec: {{{spec}}}\n"


def read(*texts: str, pool: str = "") -> ObjectivesRead:
    return read_objectives([(f"f{i}.yaml", text.encode()) for i, text in enumerate(texts)], pool)


def priorities(*texts: str, pool: str = "") -> dict[str, int]:
    return {name: one.priority for name, one in read(*texts, pool=pool).by_name.items()}


def complaints(*texts: str) -> tuple[str, ...]:
    with pytest.raises(ObjectivesError) as caught:
        read(*texts)
    return caught.value.complaints


LEGACY = "apiVersion: inference.networking.x-k8s.io/v1alpha2\nkind: InferenceObjective\n"


def test_both_groups_and_several_documents() -> None:
    text = "---\n".join(
        [objective("gold"), objective("free", "priority: -5, poolRef: {name: p}", LEGACY), ""]
    )
    assert priorities(text) == {"gold": 1, "free": -5}


def test_no_priority_is_0() -> None:
    assert priorities(objective("plain", "poolRef: {name: p}")) == {"plain": 0}
    assert priorities("", "# nothing\n", "---\n---\n") == {}


def test_what_kubectl_prints() -> None:
    text = """
apiVersion: v1
kind: List
items:
- apiVersion: llm-d.ai/v1alpha2
  kind: InferenceObjective
  metadata: {name: gold, namespace: prod, uid: x, generation: 1, creationTimestamp: "2026-01-01T00:00:00Z",
             resourceVersion: "7", labels: {a: b}, managedFields: [{manager: kubectl}]}
  spec: {priority: 9, poolRef: {group: inference.networking.k8s.io, kind: InferencePool, name: p}}
  status: {conditions: [{type: Ready, status: Unknown}]}
"""
    assert priorities(text) == {"gold": 9}
    assert (
        priorities('{"apiVersion": "llm-d.ai/v1alpha2", "kind": "InferenceObjectiveList", "items": []}') == {}
    )


def test_other_kinds_and_other_pools_are_passed_by_with_a_notice() -> None:
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n---\n"
    done = read(service + objective("gold"), objective("theirs", "priority: 3, poolRef: {name: q}"), pool="p")
    assert list(done.by_name) == ["gold"]
    first, second = done.notices
    kinds = "'InferenceObjective' or 'InferenceModelRewrite'"
    assert first == f"f0.yaml:2:7: kind: ignored: 'Service' is not read here, only {kinds}"
    assert "'theirs' belongs to the pool 'q', not to 'p'" in second
    assert "theirs" in priorities(objective("theirs", "priority: 3, poolRef: {name: q}"))


def test_the_new_group_wins() -> None:
    old = objective("gold", "priority: 1, poolRef: {name: p}", LEGACY)
    new = objective("gold", "priority: 2, poolRef: {name: p}")
    for texts in ((old, new), (new, old)):
        done = read(*texts)
        assert done.by_name["gold"].priority == 2
        assert [notice.partition(":")[0] for notice in done.notices] == [f"f{texts.index(old)}.yaml"]


def test_twice_the_same_name_names_both_places() -> None:
    (complaint,) = complaints(objective("gold"), "---\n" + objective("gold"))
    assert complaint == "f1.yaml:4:18: metadata.name: objective 'gold' stands already at f0.yaml:3:18"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "f0.yaml:1:1: expected a mapping"),
        ("- a", "expected a mapping"),
        ("spec: {}", "'kind' is required"),
        (
            HEAD.replace("Objective", "Objektive"),
            "f0.yaml:2:7: kind: unknown kind 'InferenceObjektive'",
        ),
        (HEAD, "'metadata' is required"),
        (HEAD + "metadata: {name: a}", "'spec' is required"),
        (objective("a", "priority: 1"), "f0.yaml:4:7: spec: 'poolRef' is required"),
        (objective("a", "poolRef: {}"), "spec.poolRef: 'name' is required"),
        (objective("a", "poolRef: {name: ''}"), "spec.poolRef.name: is empty"),
        (objective("a", "poolRef: {name: p, kind: Service}"), "'Service' is not 'InferencePool'"),
        (objective("a", "priority: high, poolRef: {name: p}"), "f0.yaml:4:18: spec.priority: expected `int`"),
        (objective("a", "priority: 1.5, poolRef: {name: p}"), "spec.priority"),
        (objective("a", "priority: 2147483648, poolRef: {name: p}"), "spec.priority"),
        (
            objective("a", "prority: 1, poolRef: {name: p}"),
            "'prority'; did you mean 'priority'?",
        ),
        (objective("a", "priority: 1, priority: 2, poolRef: {name: p}"), "duplicate key 'priority'"),
        (objective("''"), "metadata: 'name' is required"),
        (objective("A_b"), "'A_b' is not a name"),
        (objective("7"), "f0.yaml:3:18: metadata.name: expected `str`"),
        (
            objective("a", head=HEAD.replace("alpha2", "alpha1")),
            "unknown apiVersion 'llm-d.ai/v1alpha1'",
        ),
        (objective("a").replace("spec", "spce"), "unknown field 'spce'; did you mean 'spec'?"),
        ("a: [", "f0.yaml:1:5: not valid YAML"),
        ("a: 1\n---\nb: ]", "f0.yaml:3:4: not valid YAML"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    assert any(words in complaint for complaint in complaints(text)), complaints(text)


def test_every_mistake_of_every_file_is_told() -> None:
    told = complaints(objective("A"), objective("b", "prio: 1, poolRef: {name: p}"), "a: [", objective("ok"))
    assert [line.partition(":")[0] for line in sorted(told)] == ["f0.yaml", "f1.yaml", "f2.yaml"]


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ObjectivesError, match=r"f\.yaml:2: not UTF-8"):
        read_objectives([("f.yaml", b"a: 1\nb: \xff")])


KEYS = st.sampled_from(
    ["kind", "apiVersion", "metadata", "spec", "name", "priority", "poolRef", "items", "x"]
)
WORDS = st.sampled_from(
    ["InferenceObjective", "List", "llm-d.ai/v1alpha2", "p", "", "1", "~", "-3", "[]", "*a"]
)
VALUES = st.recursive(
    WORDS,
    lambda inner: st.dictionaries(KEYS, inner, max_size=5).map(
        lambda fields: "{" + ", ".join(f"{key}: {value}" for key, value in fields.items()) + "}"
    ),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=3))
def test_any_document_is_read_or_refused(texts: list[str]) -> None:
    with contextlib.suppress(ObjectivesError):
        read("\n---\n".join(texts))
