"""What the Dockerfile takes for granted about the tree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _copied() -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.MULTILINE)
    return [source for line in lines for source in line.split()]


def test_what_is_copied_exists_and_is_let_through() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    }
    assert _copied()
    for source in _copied():
        assert (ROOT / source).exists(), source
        assert source in allowed, source


def test_the_wheel_has_all_that_it_is_built_from() -> None:
    needed = {
        PROJECT["project"]["readme"],
        *PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    }
    assert needed <= set(_copied())


def test_it_runs_the_installed_command_as_a_plain_user() -> None:
    last = TEXT[TEXT.rindex("\nFROM ") :]
    assert "epp" in PROJECT["project"]["scripts"]
    assert 'ENTRYPOINT ["epp", "serve"]' in last
    user = re.search(r"^USER (\d+):(\d+)$", last, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    assert not re.search(r"\b(apt-get|gcc|pip install|uv)\b", last)


def test_the_base_image_is_a_python_that_the_project_supports() -> None:
    wanted = re.search(r"^ARG PYTHON=3\.(\d+)$", TEXT, re.MULTILINE)
    assert wanted is not None
    least = PROJECT["project"]["requires-python"].removeprefix(">=3.")
    assert int(wanted[1]) >= int(least)
