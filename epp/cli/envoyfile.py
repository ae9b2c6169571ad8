"""Fills ports and addresses into the Envoy configurations of `deploy/envoy`, which also work as they are.

A line that ends in `# @name` carries one value to fill in: the last scalar before the mark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

Value = int | str | Sequence[int] | Sequence[str]

_MARKED = re.compile(r"^(?P<before>.*?)(?P<scalar>[^\s{}\[\],]+)(?P<after>[\s}\]]*)# @(?P<name>\w+)$")


def render(path: Path, values: Mapping[str, Value]) -> str:
    """The text of the file with the marked values replaced; those not named keep their defaults.

    A sequence repeats its line once for every item (the hosts of a cluster). Raises ValueError for a name
    that the file does not mark, and for an empty sequence, which would leave a list without its items.
    """
    lines: list[str] = []
    unused = set(values)
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _MARKED.match(line)
        if match is None or match["name"] not in values:
            lines.append(line)
            continue
        unused.discard(match["name"])
        value = values[match["name"]]
        items: Sequence[int | str] = [value] if isinstance(value, int | str) else value
        if not items:
            raise ValueError(f"{path}: {match['name']} needs at least one value")
        lines.extend(f"{match['before']}{item}{match['after']}# @{match['name']}" for item in items)
    if unused:
        raise ValueError(f"{path}: no line is marked {', '.join(f'# @{name}' for name in sorted(unused))}")
    return "\n".join(lines) + "\n"
