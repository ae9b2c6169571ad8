"""The command line of `epp doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from epp.cli.doctor import doctor


def test_findings_as_a_table_and_as_json(tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    endpoints.write_text("endpoints: []")
    result = CliRunner().invoke(doctor, ["--endpoints-file", str(endpoints)])
    assert result.exit_code == 1
    assert "it names no endpoint" in result.stdout
    assert result.stdout.splitlines()[-1] == "0 ok, 0 warning, 1 error, 0 skipped"
    result = CliRunner().invoke(doctor, ["--endpoints-file", str(endpoints), "--output", "json"])
    assert result.exit_code == 1
    (told,) = json.loads(result.stdout)
    assert sorted(told) == ["found", "level", "mend", "subject"]
    assert told["level"] == "error"


def test_no_error_is_success(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n")
    result = CliRunner().invoke(doctor, ["--config-file", str(config)])
    assert (result.exit_code, "0 error" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pool-name", "a", "--all-pools"], "leave out --all-pools"),
        (["--all-namespaces", "--pool-name", "a"], "needs --all-pools"),
        (["--endpoint-selector", "app=vllm"], "go together"),
        (["--endpoint-selector", "app=vllm", "--pool-name", "a"], "name no pools"),
        (["--picker", "epp"], "is no address"),
        (["--gateway", "http://"], "is no URL"),
        (["--gateway", "g", "--header", "x"], "is no header"),
    ],
)
def test_what_cannot_be_asked(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(doctor, arguments)
    assert result.exit_code == 2
    assert words in result.output
