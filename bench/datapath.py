"""All that is wanted of the data path, in one table: the gateway, open streams, and the hand-off to Python.

    python bench/datapath.py [--quick]

Runs bench/gateway.py, bench/streams.py and bench/handoff.py in turn; each also writes a file of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys

import click
import wanted_table
from rich.console import Console
from stack import ROOT
from wanted_table import Line

BENCHES: dict[str, tuple[str, ...]] = {
    "gateway": ("--quick",),
    "streams": ("--streams", "2000"),
    "handoff": ("--seconds", "3"),
}
"""With the options of a quick run."""


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Few loads, short runs: under three minutes.")
def main(quick: bool) -> None:
    lines: list[Line] = []
    failed = []
    for name, fewer in BENCHES.items():
        out = ROOT / f"out/bench-{name}.json"
        out.unlink(missing_ok=True)
        argv = [sys.executable, str(ROOT / f"bench/{name}.py"), *(fewer if quick else ()), "--out", str(out)]
        if subprocess.run(argv, check=False).returncode:
            failed.append(name)
        if out.exists():
            lines += [Line(**line) for line in json.loads(out.read_text())["lines"]]
    Console(width=150).print(wanted_table.table(lines))
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}; see above")


if __name__ == "__main__":
    main()
