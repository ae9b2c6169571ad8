"""The `trust` section: mistakes with their places, and the secret that it leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from epp.admission.trust import Taken, TrustSettings
from epp.config.loader import load_text
from epp.config.own import OwnBlock
from epp.config.problems import ConfigError

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def own(text: str) -> OwnBlock:
    return load_text(f"{HEAD}epp: {{{text}}}\n", source="c").own


def settings(text: str, environ: dict[str, str] | None = None) -> TrustSettings:
    trust = own(f"trust: {{{text}}}").trust
    assert trust is not None
    return trust.settings(environ or {})


def test_without_it_nothing_is_guarded_and_with_it_everything() -> None:
    assert own("").trust is None
    assert own("trust: ").trust is None
    assert settings("") == TrustSettings()


def test_every_field() -> None:
    read = settings(
        "objective: marker, fairnessId: secret, ttl: clients, slo: strip, testSelection: clients, "
        "marker: {header: X-From, value: us}, secret: {header: X-Key, env: KEY}, tenants: [a, b]",
        {"KEY": "hush"},
    )
    assert read == TrustSettings(
        objective=Taken.MARKER, fairness_id=Taken.SECRET, ttl=Taken.CLIENTS, slo=Taken.STRIP,
        test_selection=Taken.CLIENTS, marker="x-from", marker_value="us", secret="x-key", secrets=(b"hush",),
        tenants=frozenset({"a", "b"}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "objective: client",
            "trust.objective: 'client' is not 'clients', 'marker', 'secret' or 'strip'; did",
        ),
        ("fairnessID: strip", "unknown field 'fairnessID'; did you mean 'fairnessId'?"),
        ("fairnessId: marker", "trust.fairnessId: 'marker' needs the field 'marker'"),
        ("testSelection: secret", "trust.testSelection: 'secret' needs the field 'secret'"),
        ("marker: {}", "trust.marker: 'header' is required"),
        ("marker: {header: 'a b'}", "trust.marker.header: 'a b' is not the name of a header"),
        ("marker: {header: X-LLM-D-Inference-Objective}", "has another meaning already"),
        (
            "secret: {header: Authorization, env: K}",
            "trust.secret.header: 'Authorization' has another meaning",
        ),
        ("secret: {header: x-key}", "trust.secret: a secret is read from a 'file' or from 'env'"),
        ("secret: {header: x-key, env: K, file: f}", "one of them"),
        ("tenants: [a]", "trust.tenants: no tenant is known while 'fairnessId' is 'strip'"),
        ("fairnessId: clients, tenants: ['']", "trust.tenants: a fairness id has 1 to 256 characters"),
        ("maxFairnessIds: 0", "trust.maxFairnessIds: expected `int` >= 1"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        own(f"trust: {{{text}}}")
    assert words in str(caught.value)


def test_a_file_may_hold_the_next_secret_too(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old\n\nnew \n")
    assert settings(f"secret: {{header: k, file: {path}}}").secrets == (b"old", b"new")


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read: No such file"), ("\n", "holds no secret"), ("hush" * 2000, "longer than")],
)
def test_a_secret_that_is_not_there(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        settings(f"secret: {{header: k, file: {path}}}")
    assert "hush" not in str(caught.value)
    with pytest.raises(ValueError, match="environment variable KEY holds no secret"):
        settings("secret: {header: k, env: KEY}")


def test_objectives() -> None:
    assert own("objectives: /etc/epp/objectives").objectives.path == "/etc/epp/objectives"
    read = own("objectives: {path: o.yaml, defaultPriority: -2}").objectives
    assert (read.path, read.default_priority) == ("o.yaml", -2)
    with pytest.raises(ConfigError, match=r"objectives\.defaultPriority"):
        own("objectives: {defaultPriority: 3000000000}")
