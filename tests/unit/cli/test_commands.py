"""The table of commands: every row leads to one, and a misspelt name to the nearest."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from epp.cli.commands import COMMANDS, epp


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    command = epp.get_command(click.Context(epp), name)
    assert command is not None
    assert command.help


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("serv", "no command is named 'serv'; did you mean 'serve'?"),
        ("frobnicate", "there are 'serve', 'route-by-model'"),
        ("--nothing", "No such option"),
    ],
)
def test_a_command_that_is_none(given: str, words: str) -> None:
    result = CliRunner().invoke(epp, [given])
    assert result.exit_code == 2
    assert words in result.output
