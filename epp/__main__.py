"""The `epp` command."""

from __future__ import annotations

from epp.cli.commands import epp


def main() -> None:
    epp(prog_name="epp")


if __name__ == "__main__":
    main()
