"""InferenceModelRewrite documents: what is read, from files and alone, and what every complaint names."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epp.config.objectives import read_objectives
from epp.config.objects import read_object
from epp.config.problems import ConfigError
from epp.config.rewrites import HASH_HEADER, REWRITE
from epp.datalayer.objectives import ObjectivesError
from epp.domain.rewrite import Rewrite, RewriteRule, RewriteTarget

HEAD = "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\n"
LEGACY = HEAD.replace("llm-d.ai", "inference.networking.x-k8s.io")
RULES = "[{matches: [{model: {type: Exact, value: m}}], targets: [{modelRewrite: t, weight: 1}]}]"


def rewrite(name: str = "a", rules: str = RULES, head: str = HEAD, pool: str = "p", more: str = "") -> str:
    return f"{head}metadata: {{name: {name}{more}}}\nspec: {{poolRef: {{name: {pool}}}, rules: {rules}}}\n"


def read(*texts: str, pool: str = "") -> tuple[Rewrite, ...]:
    return read_objectives([(f"f{i}.yaml", text.encode()) for i, text in enumerate(texts)], pool).rewrites


def notices(*texts: str, pool: str = "") -> tuple[str, ...]:
    return read_objectives([(f"f{i}.yaml", text.encode()) for i, text in enumerate(texts)], pool).notices


def complaint(text: str) -> str:
    with pytest.raises(ObjectivesError) as caught:
        read(text)
    (said,) = caught.value.complaints
    return said


def test_a_rewrite_is_read_whole() -> None:
    text = f"""
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata:
  name: canary
  annotations: {{{HASH_HEADER}: X-User-ID, kubectl.kubernetes.io/last-applied-configuration: "{{}}"}}
  creationTimestamp: "2026-01-31T23:59:59+01:00"
spec:
  poolRef: {{name: p, kind: InferencePool, group: inference.networking.k8s.io}}
  rules:
  - matches: [{{model: {{value: m}}}}, {{model: {{type: Exact, value: n}}}}]
    targets: [{{modelRewrite: t, weight: 90}}, {{modelRewrite: u, weight: 10}}]
  - targets: [{{modelRewrite: rest}}]
status: {{conditions: []}}
"""
    targets = RewriteTarget("t", 90), RewriteTarget("u", 10)
    rules = RewriteRule(("m", "n"), targets), RewriteRule((), (RewriteTarget("rest"),))
    assert read(text) == (Rewrite("canary", rules, "2026-01-31T22:59:59Z", "x-user-id"),)


def test_one_object_as_the_api_gives_it() -> None:
    found = read_object(REWRITE, yaml.safe_load(rewrite()), "prod/a")
    pool = found.pool
    assert found.item == Rewrite("a", (RewriteRule(("m",), (RewriteTarget("t", 1),)),))
    assert (pool.name, pool.kind, pool.group) == ("p", "InferencePool", "")
    with pytest.raises(ConfigError) as caught:
        read_object(REWRITE, yaml.safe_load(rewrite(rules="[{targets: []}]")), "prod/a")
    assert str(caught.value) == "prod/a: spec.rules[0].targets: needs at least 1 item(s), has 0"


def test_rewrites_and_objectives_stand_side_by_side() -> None:
    objective = (
        HEAD.replace("ModelRewrite", "Objective") + "metadata: {name: a}\nspec: {poolRef: {name: p}}\n"
    )
    done = read_objectives([("f", f"{objective}---\n{rewrite()}".encode())])
    assert list(done.by_name) == ["a"], "names are of a kind"
    assert [one.name for one in done.rewrites] == ["a"]
    assert done.notices == ()


def test_what_kubectl_prints() -> None:
    items = ", ".join(str(yaml.safe_load(rewrite(name))) for name in ("a", "b"))
    for kind in ("List", "InferenceModelRewriteList"):
        listed = f"apiVersion: v1\nkind: {kind}\nitems: [{items}]\n"
        assert [one.name for one in read(listed)] == ["a", "b"]


def test_another_pools_are_passed_by() -> None:
    assert [one.name for one in read(rewrite(), rewrite("b", pool="q"), pool="p")] == ["a"]
    (notice,) = notices(rewrite(), rewrite("b", pool="q"), pool="p")
    assert "rewrite 'b' belongs to the pool 'q', not to 'p'" in notice


def test_the_new_group_wins() -> None:
    new = RULES.replace("modelRewrite: t", "modelRewrite: new")
    for texts in ((rewrite(head=LEGACY), rewrite(rules=new)), (rewrite(rules=new), rewrite(head=LEGACY))):
        (one,) = read(*texts)
        assert one.rules[0].targets[0].model == "new"


def test_where_some_targets_have_no_weight_there_is_a_notice() -> None:
    mixed = "[{targets: [{modelRewrite: t, weight: 1}, {modelRewrite: u}]}]"
    (one,) = read(rewrite(rules=mixed))
    assert one.rules[0].targets == (RewriteTarget("t", 1), RewriteTarget("u"))
    (notice,) = notices(rewrite(rules=mixed))
    assert notice.startswith("f0.yaml:4:46: spec.rules[0].targets: some have a weight")


def test_a_misspelt_annotation_of_ours_is_told() -> None:
    more = ", annotations: {llm-d.ai/rewrite-hash-heder: x-user, other/rewrite: 5}"
    (one,) = read(rewrite(more=more))
    assert one.hash_header == ""
    (notice,) = notices(rewrite(more=more))
    assert notice.endswith(f"not known; did you mean '{HASH_HEADER}'?")


def test_an_age_that_is_not_known() -> None:
    for more in ("", ", creationTimestamp: null"):
        assert read(rewrite(more=more))[0].created_at == ""


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("{}", "f0.yaml:4:35: spec.rules: expected a list, got a mapping"),
        ("[{}]", "f0.yaml:4:36: spec.rules[0]: 'targets' is required"),
        ("[{targets: []}]", "spec.rules[0].targets: needs at least 1 item(s), has 0"),
        ("[{targets: [{}]}]", "spec.rules[0].targets[0]: 'modelRewrite' is required"),
        (
            "[{targets: [{modelRewrite: ''}]}]",
            "spec.rules[0].targets[0].modelRewrite: expected `str` of length >= 1",
        ),
        (
            "[{targets: [{modelRewrite: t, weight: 0}]}]",
            "spec.rules[0].targets[0].weight: expected `int` >= 1",
        ),
        ("[{targets: [{modelRewrite: t, weight: 1000001}]}]", "targets[0].weight: expected `int` <= 1000000"),
        ("[{targets: [{modelRewrite: t, weight: 0.5}]}]", "targets[0].weight: expected `int`"),
        ("[{targets: [{modelRewrite: t, wieght: 1}]}]", "unknown field 'wieght'; did you mean 'weight'?"),
        ("[{matches: [{}], targets: [{modelRewrite: t}]}]", "spec.rules[0].matches[0]: 'model' is required"),
        ("[{matches: [{model: {}}], targets: [{modelRewrite: t}]}]", "matches[0].model: 'value' is required"),
        (
            "[{matches: [{model: {type: Prefix, value: m}}], targets: [{modelRewrite: t}]}]",
            "spec.rules[0].matches[0].model.type: 'Prefix' is not 'Exact'",
        ),
        (
            '[{targets: [{modelRewrite: "a\\nb"}]}]',
            "modelRewrite: a model's name has printable characters only",
        ),
        (
            '[{matches: [{model: {value: "\\u0007"}}], targets: [{modelRewrite: t}]}]',
            "matches[0].model.value: a model's name has printable",
        ),
        (f"[{{targets: [{{modelRewrite: {'x' * 4097}}}]}}]", "expected `str` of length <= 4096"),
        (f"[{{targets: [{', '.join(['{modelRewrite: t}'] * 101)}]}}]", "takes at most 100 item(s), has 101"),
    ],
)
def test_what_may_not_stand_in_rules(rules: str, words: str) -> None:
    assert words in complaint(rewrite(rules=rules))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (rewrite("A"), "'A' is not a name"),
        (rewrite(pool="''"), "spec.poolRef.name: is empty"),
        (HEAD + "metadata: {name: a}\nspec: {rules: []}", "spec: 'poolRef' is required"),
        (rewrite(head=HEAD.replace("v1alpha2", "v1")), "unknown apiVersion 'llm-d.ai/v1'"),
        (rewrite(head=HEAD.replace("Rewrite", "Rewrit")), "did you mean 'InferenceModelRewrite'?"),
        (rewrite(more=", creationTimestamp: yesterday"), "creationTimestamp: expected an instant such as"),
        (
            rewrite(more=", creationTimestamp: '2026-01-01T00:00:00'"),
            "creationTimestamp: expected an instant",
        ),
        (rewrite(more=", creationTimestamp: 5"), "creationTimestamp: expected an instant"),
        (
            rewrite(more=f", annotations: {{{HASH_HEADER}: 'x user'}}"),
            "expected the name of a request header",
        ),
        (rewrite(more=f", annotations: {{{HASH_HEADER}: 5}}"), "expected the name of a request header"),
        (rewrite(more=f", annotations: {{{HASH_HEADER}: ':path'}}"), "expected the name of a request header"),
        (rewrite(more=", annotations: [a]"), "metadata.annotations: expected a mapping"),
    ],
)
def test_what_may_not_stand_elsewhere(text: str, words: str) -> None:
    assert words in complaint(text)


def test_twice_the_same_name_names_both_places() -> None:
    text = rewrite() + "---\n" + rewrite()
    assert complaint(text) == "f0.yaml:8:18: metadata.name: rewrite 'a' stands already at f0.yaml:3:18"


NAMES = [
    "metadata", "spec", "name", "poolRef", "rules", "matches", "model", "value", "type", "targets",
    "modelRewrite", "weight", "annotations", "creationTimestamp", HASH_HEADER,
]  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=25,
)


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), VALUES))
def test_no_object_is_a_surprise(fields: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        read_object(
            REWRITE, {"apiVersion": "llm-d.ai/v1alpha2", "kind": "InferenceModelRewrite", **fields}, "x"
        )
