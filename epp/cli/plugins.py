"""`epp plugins`: every plugin that a configuration can name, with its parameters, units and defaults."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from epp.cli.output import console, plain
from epp.config.catalog import BUILT_IN, BrokenPackageError, Catalog, Row, catalog
from epp.config.describe import fields_of, roles_of
from epp.config.not_built import NOT_BUILT, refusal
from epp.config.presets import DEFAULT, PRESETS
from epp.config.problems import nearest


@click.command()
@click.argument("name", metavar="[TYPE]", required=False)
@click.option("--presets", is_flag=True, help="List built-in configurations; with a name, print its text.")
@click.option("--all", "everything", is_flag=True, help="Also list known types that are not supported yet.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def plugins(name: str | None, presets: bool, everything: bool, as_json: bool) -> None:
    """List every plugin with its parameters, units and defaults; with TYPE only that one."""
    if presets:
        _print_presets(name, as_json)
        return
    table = catalog()
    if name is not None and name not in table:
        if name in NOT_BUILT:
            raise click.ClickException(refusal(f"plugin type '{name}'", NOT_BUILT[name]))
        raise click.ClickException(f"unknown plugin type '{name}'{nearest(name, [*table, *NOT_BUILT])}")
    wanted = [name] if name is not None else list(table)
    rows, broken = _rows(table, wanted)
    missing = {} if name is not None or not everything else dict(NOT_BUILT)
    if as_json:
        answer: list[dict[str, Any]] = [_json_row(row) for row in rows]
        answer += [{"type": each, "broken": why} for each, why in broken.items()]
        answer += [{"type": each, "notSupported": why} for each, why in missing.items()]
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        _print_rows(rows)
        _print_table("not supported yet", missing)
        _print_table("broken packages", broken)
        _print_table("never used: a built-in plugin has the name", dict(table.shadowed()))
    if name is not None and broken:
        raise click.exceptions.Exit(1)


def _rows(table: Catalog, wanted: list[str]) -> tuple[list[Row], dict[str, str]]:
    rows: list[Row] = []
    broken: dict[str, str] = {}
    for name in wanted:
        try:
            rows.append(table[name])
        except BrokenPackageError as error:
            broken[name] = str(error)
    return rows, broken


def _json_row(row: Row) -> dict[str, Any]:
    return {
        "type": row.name,
        "roles": list(roles_of(row)),
        "summary": row.type.summary,
        "origin": row.origin,
        "alpha": row.type.alpha,
        "deprecatedFor": row.type.deprecated_for or None,
        "needs": list(row.type.needs),
        "parameters": [
            {
                "name": field.name,
                "type": field.type,
                "required": field.required,
                "default": field.default,
                "description": field.description,
            }
            for field in fields_of(row.type.parameters)
        ],
    }


def _print_rows(rows: list[Row]) -> None:
    out = console()
    for row in rows:
        notes = [", ".join(roles_of(row))]
        if row.type.alpha:
            notes.append("experimental")
        if row.type.deprecated_for:
            notes.append(f"deprecated, use {row.type.deprecated_for}")
        if row.origin != BUILT_IN:
            notes.append(f"package {row.origin}")
        title = Text(row.name, style="bold")
        title.append(f"  ({'; '.join(notes)})", style="not bold dim")
        out.print(title)
        out.print(Text(f"  {row.type.summary}"))
        fields = fields_of(row.type.parameters)
        if fields:
            table = Table.grid(padding=(0, 2))
            table.add_column(overflow="fold")
            table.add_column(overflow="fold", min_width=12)
            table.add_column(overflow="fold", min_width=8)
            table.add_column(overflow="fold", ratio=1)
            for field in fields:
                default = "required" if field.required else plain(field.default)
                cells = (f"    {field.name}", field.type, default, field.description)
                table.add_row(*(Text(cell) for cell in cells))
            out.print(table)
        out.print()


def _print_table(title: str, lines: dict[str, str]) -> None:
    if not lines:
        return
    table = Table(title=title, title_justify="left")
    table.add_column("plugin", no_wrap=True)
    table.add_column("why", overflow="fold")
    for name, why in lines.items():
        table.add_row(Text(name), Text(why))
    console().print(table)


def _print_presets(name: str | None, as_json: bool) -> None:
    if name is not None and name not in PRESETS:
        raise click.ClickException(f"unknown preset '{name}'{nearest(name, PRESETS)}")
    chosen = {name: PRESETS[name]} if name is not None else dict(PRESETS)
    if as_json:
        rows = [
            {"name": each, "default": each == DEFAULT, "summary": preset.summary, "text": preset.text}
            for each, preset in chosen.items()
        ]
        click.echo(json.dumps(rows, indent=2))
    elif name is not None:
        click.echo(PRESETS[name].text, nl=False)
    else:
        table = Table()
        table.add_column("preset", no_wrap=True)
        table.add_column("meaning", overflow="fold")
        for each, preset in chosen.items():
            table.add_row(each + (" (default)" if each == DEFAULT else ""), preset.summary)
        console().print(table)
