"""The terminal as the commands use it: tables as wide as the terminal, or wide enough when piped."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rich.console import Console

from epp.config.problems import Problem

PIPED_WIDTH = 160


def console() -> Console:
    """Standard output."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(
        file=sys.stdout, width=PIPED_WIDTH if piped else None, highlight=False, markup=False, emoji=False
    )


def complain(problems: tuple[Problem, ...], *, word: str = "") -> None:
    """One line a problem to standard error, as compilers write them; never wrapped."""
    for problem in problems:
        print(f"{word}{problem}", file=sys.stderr)


def plain(value: Any) -> str:
    """A parameter's value in a table."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
