"""The example package is installed as anybody's would be, and epp finds it without being told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

PACKAGE = Path(__file__).parents[3] / "examples" / "plugin-package"
CONFIG = PACKAGE / "same-zone.yaml"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, as pip would install it."""
    target = tmp_path_factory.mktemp("installed")
    command = [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    subprocess.run([*command, "--target", str(target), str(PACKAGE)], check=True, timeout=90)
    return target


def epp(installed: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if installed is not None:
        environment["PYTHONPATH"] = str(installed)
    command = [sys.executable, "-m", "epp", *arguments]
    return subprocess.run(
        command, env=environment, cwd=PACKAGE, capture_output=True, text=True, timeout=60, check=False
    )


def test_without_the_package_its_type_is_unknown() -> None:
    result = epp(None, "check", CONFIG.name)
    assert result.returncode == 1
    assert "same-zone.yaml:6:9: plugins[1].type: unknown plugin type 'same-zone-scorer'" in result.stderr


def test_its_parameters_are_shown_and_checked(installed: Path, tmp_path: Path) -> None:
    shown = epp(installed, "check", CONFIG.name)
    assert shown.returncode == 0, shown.stderr
    assert "zone=eu-central-1a" in shown.stdout
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(CONFIG.read_text().replace("elsewhere: 0.2", "elsewere: 2"))
    assert (
        "parameters.elsewere: unknown field 'elsewere'; did you mean 'elsewhere'?"
        in epp(installed, "check", str(wrong)).stderr
    )
    described = epp(installed, "plugins", "same-zone-scorer", "--json")
    assert json.loads(described.stdout)[0]["origin"] == "epp-same-zone"


def test_it_decides(installed: Path, tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    zone = "topology.kubernetes.io/zone"
    endpoints.write_text(
        "endpoints:\n"
        f"- {{name: far, address: 10.0.0.1, port: 8000, labels: {{{zone}: eu-central-1b}}}}\n"
        f"- {{name: near, address: 10.0.0.2, port: 8000, labels: {{{zone}: eu-central-1a}}}}\n"
    )
    body = tmp_path / "body.json"
    body.write_text('{"model": "m", "prompt": "hello"}')
    result = epp(
        installed, "route", "--config-file", CONFIG.name, "--endpoints", str(endpoints), "--body", str(body),
        "--path", "/v1/completions", "--no-scrape", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["destination"] == "10.0.0.2:8000"
    scores = {one["endpoint"]: one["scores"] for one in answer["decision"]["profiles"][0]["scored"]}
    assert scores["default/far"]["same-zone-scorer"] == 0.2
    assert scores["default/near"]["same-zone-scorer"] == 1.0
