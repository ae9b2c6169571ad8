"""What is wrong with a configuration, and where: file, line, column, field, bad word, nearest good one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands in the document: keys and list indices from the top."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the text; both count from 1, as compilers and editors do."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One complaint (or one notice). `mark` is None where no line of the text is to blame."""

    source: str
    mark: Mark | None
    path: Path
    message: str

    def __str__(self) -> str:
        where = f"{self.source}:{self.mark.line}:{self.mark.column}: " if self.mark else f"{self.source}: "
        line = f"{where}{spell(self.path)}: {self.message}" if self.path else f"{where}{self.message}"
        return "".join(c if c.isprintable() else "?" for c in line)  # it quotes whatever stands in the file


class ConfigError(Exception):
    """The configuration cannot be used. Holds every problem that was found, in the order of the text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: p.mark or Mark(0, 0)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(slots=True)
class Report:
    """Collects problems and notices of one text. `marks` are places of values, `keys` of keys."""

    source: str
    marks: Mapping[Path, Mark] = field(default_factory=dict)
    keys: Mapping[Path, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)

    def copy(self) -> Report:
        """To go on from here more than once."""
        return Report(self.source, self.marks, self.keys, list(self.problems), list(self.notices))

    def error(self, path: Path, message: str, *, key: bool = False) -> None:
        """`key` points at the key instead of its value."""
        self.problems.append(Problem(self.source, self._mark(path, key), path, message))

    def notice(self, path: Path, message: str, *, key: bool = False) -> None:
        """Something that works but that the operator should know."""
        self.notices.append(Problem(self.source, self._mark(path, key), path, message))

    def blames(self, path: Path) -> bool:
        """There is already a problem at this very path."""
        return any(problem.path == path for problem in self.problems)

    def raise_any(self) -> None:
        if self.problems:
            raise ConfigError(self.problems)

    def _mark(self, path: Path, key: bool) -> Mark | None:
        if key and path in self.keys:
            return self.keys[path]
        for end in range(len(path), -1, -1):  # a missing field is reported at what should hold it
            if path[:end] in self.marks:
                return self.marks[path[:end]]
        return None


def spell(path: Path) -> str:
    """`plugins[2].parameters.blockSize`; keys that are no plain words are quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.replace("-", "").replace("_", "").isalnum():
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text


def nearest(word: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the valid word closest to a misspelt one; empty when nothing is close."""
    known = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean '{known[close[0]]}'?" if close else ""


def choices(valid: Iterable[str]) -> str:
    """`'a', 'b' or 'c'`."""
    quoted = [f"'{name}'" for name in valid]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
