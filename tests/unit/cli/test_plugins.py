"""`epp plugins` as the shell sees it."""

from __future__ import annotations

import json

from click.testing import CliRunner, Result

from epp.cli.plugins import plugins
from epp.config.catalog import catalog
from epp.config.loader import load_text
from epp.config.not_built import NOT_BUILT
from epp.config.presets import PRESETS


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(plugins, arguments)


def test_every_type_is_listed_with_its_parameters() -> None:
    result = run()
    assert result.exit_code == 0
    for name in catalog():
        assert f"{name}  (" in result.stdout
    line = next(line for line in result.stdout.splitlines() if "queueDepthThreshold" in line)
    assert line.split()[:5] == ["queueDepthThreshold", "int", ">", "0", "5"]
    assert "waiting requests that fill an endpoint" in line
    assert "latency-scorer" not in result.stdout


def test_one_type() -> None:
    result = run("max-score-picker")
    assert result.stdout.startswith("max-score-picker  (picker)\n")
    assert "maxNumOfEndpoints" in result.stdout
    assert "queue-scorer" not in result.stdout


def test_types_for_later_are_listed_on_request_and_refused_by_name() -> None:
    result = run("--all")
    for name, why in NOT_BUILT.items():
        row = next(line for line in result.stdout.splitlines() if f" {name} " in line)
        assert why in row
    refused = run("latency-scorer")
    assert refused.exit_code == 1
    assert "'latency-scorer' is not supported yet: predicted latency is not built" in refused.stderr
    assert "did you mean 'queue-scorer'?" in run("queue-screr").stderr


def test_json_for_machines() -> None:
    rows = {row["type"]: row for row in json.loads(run("--json").stdout)}
    assert set(rows) == set(catalog())
    picker = rows["max-score-picker"]
    assert picker["roles"] == ["picker"]
    assert picker["parameters"] == [
        {
            "name": "maxNumOfEndpoints",
            "type": "int > 0",
            "required": False,
            "default": 1,
            "description": picker["parameters"][0]["description"],
        }
    ]
    assert rows["by-label"]["deprecatedFor"] == "label-selector-filter"
    assert rows["session-affinity-scorer"]["alpha"] is True
    assert "conditions[].maxValue" in [field["name"] for field in rows["utilization-filter"]["parameters"]]
    everything = {row["type"]: row for row in json.loads(run("--json", "--all").stdout)}
    assert everything["latency-scorer"] == {
        "type": "latency-scorer",
        "notSupported": NOT_BUILT["latency-scorer"],
    }


def test_presets_are_listed_and_their_text_can_be_started_from() -> None:
    assert "expected-work (default)" in run("--presets").stdout
    for name in PRESETS:
        assert load_text(run("--presets", name).stdout).profiles
    assert run("--presets", "nobody").exit_code == 1
    assert [row["name"] for row in json.loads(run("--presets", "--json").stdout)] == list(PRESETS)
