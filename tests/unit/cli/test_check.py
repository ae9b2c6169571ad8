"""`epp check` as the shell sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from epp.cli.check import check
from epp.config.presets import PRESETS

SAMPLES = Path(__file__).parents[3] / "deploy" / "config"


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(check, arguments, input=stdin)


def test_a_good_configuration_is_shown_as_tables() -> None:
    result = run(str(SAMPLES / "lora.yaml"))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    row = next(line for line in lines if "lora-affinity-scorer" in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["scorer", "lora-affinity-scorer", "4"]
    assert any(
        "not-full (utilization-detector)" in line and "queueDepthThreshold=16" in line for line in lines
    )
    added = next(line for line in lines if "single-profile-handler" in line)
    assert "profile handler" in added
    assert "default" in added
    assert result.stderr == ""


def test_mistakes_go_to_standard_error_with_status_1(tmp_path: Path) -> None:
    path = tmp_path / "epp.yaml"
    path.write_text(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: que-scorer\n- name: x\n"
    )
    result = run(str(path))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{path}:4:9: plugins[0].type: unknown plugin type 'que-scorer'; did you mean 'queue-scorer'?",
        f"{path}:5:3: plugins[1]: 'type' is required",
    ]


def test_notices_are_told_and_do_not_fail() -> None:
    text = "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\n"
    result = run("-", stdin=text)
    assert result.exit_code == 0
    assert result.stderr.startswith("notice: stdin:1:13: apiVersion: ")


def test_experimental_plugins_need_the_flag() -> None:
    sample = str(SAMPLES / "sticky-sessions.yaml")
    assert "is experimental" in run(sample).stderr
    assert run(sample, "--allow-experimental-plugins").exit_code == 0


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    assert f"preset {name}: profiles" in run("--preset", name).stdout


def test_names_are_shown_as_they_are() -> None:
    text = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
    result = run("-", stdin=text + "plugins: [{name: '[red]x[/red]', type: queue-scorer}]\n")
    assert "[red]x[/red] (queue-scorer)" in result.stdout


def test_one_source_at_a_time() -> None:
    assert run().exit_code == 2
    assert run("x.yaml", "--preset", "reference").exit_code == 2
    missing = run("/no/such.yaml")
    assert missing.exit_code == 1
    assert missing.stderr == "/no/such.yaml: cannot be read: No such file or directory\n"


def test_queues_are_shown_with_their_limits_and_policies() -> None:
    lines = run(str(SAMPLES / "flow-control.yaml")).stdout.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert [
        "10",
        "1,000",
        "1,000,000,000",
        "global-strict-fairness-policy",
        "slo-deadline-ordering-policy",
    ] in cells
    assert ["others", "5,000", "1,000,000,000", "program-aware-fairness", "fcfs-ordering-policy"] in cells
    assert ["all together", "unlimited", "unlimited", "", ""] in cells
    assert any("a request waits at most 60 s" in line for line in lines)
    closed = run("-", stdin="apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n").stdout
    assert "queues" not in closed
