"""`epp check`: is this configuration right, and what does it build?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from epp.admission.band import BandSettings
from epp.admission.limits import Limits
from epp.admission.settings import FlowControlSettings
from epp.cli.output import complain, console, plain
from epp.config.describe import roles_of_plugin, values_of
from epp.config.loaded import Loaded
from epp.config.loader import load_file, load_preset, load_text
from epp.config.presets import PRESETS
from epp.config.problems import ConfigError
from epp.config.resolve import Instance
from epp.scheduling.profile import Named


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Check a built-in configuration instead.")
@click.option("--allow-experimental-plugins", is_flag=True, help="Allow plugins of alpha level.")
def check(config: Path | None, preset: str | None, allow_experimental_plugins: bool) -> None:
    """Read CONFIG as `epp serve` would, without serving; `-` is standard input.

    Prints every mistake with its file, line and column, and exits with status 1 if there is one; otherwise
    prints the profiles that are built from it.
    """
    if (config is None) == (preset is None):
        raise click.UsageError("give a CONFIG file or --preset")
    try:
        if preset is not None:
            loaded = load_preset(preset)
        elif str(config) == "-":
            text = sys.stdin.read()
            loaded = load_text(text, source="stdin", allow_experimental=allow_experimental_plugins)
        else:
            assert config is not None
            loaded = load_file(config, allow_experimental=allow_experimental_plugins)
    except ConfigError as error:
        complain(error.problems)
        raise click.exceptions.Exit(1) from error
    complain(loaded.notices, word="notice: ")
    out = console()
    out.print(_profiles(loaded))
    out.print(_surroundings(loaded))
    if loaded.flow is not None:
        out.print(_queues(loaded, loaded.flow))


def _profiles(loaded: Loaded) -> Table:
    table = Table(title=f"{loaded.source}: profiles", title_justify="left")
    for name in ("profile", "kind", "plugin"):
        table.add_column(name, no_wrap=True)
    table.add_column("weight", justify="right")
    table.add_column("parameters", overflow="fold")
    by_name = {instance.name: instance for instance in loaded.instances}
    for profile in loaded.profiles:
        steps: list[tuple[str, Named[Any], str]] = [("filter", step, "") for step in profile.filters]
        steps += [("scorer", step, f"{weight:g}") for step, weight in profile.scorers]
        steps.append(("picker", profile.picker, ""))
        for i, (kind, step, weight) in enumerate(steps):
            instance = by_name[step.name]
            name = profile.name if i == 0 else ""
            table.add_row(name, kind, _title(instance), weight, _parameters(instance))
        table.add_section()
    return table


def _surroundings(loaded: Loaded) -> Table:
    """What works outside of the profiles."""
    table = Table(title="around the profiles", title_justify="left")
    for name in ("kind", "plugin", "from"):
        table.add_column(name, no_wrap=True)
    table.add_column("parameters", overflow="fold")
    placed = {step.name for profile in loaded.profiles for step in profile.filters}
    placed |= {step.name for profile in loaded.profiles for step, _ in profile.scorers}
    placed |= {profile.picker.name for profile in loaded.profiles}
    built = {step.name: step.plugin for step in loaded.plugins}
    for instance in loaded.instances:
        if instance.name in placed and instance.name != loaded.detector.name:
            continue
        plugin = built.get(instance.name)
        kind = str(instance.row.kind)
        if kind == "scheduling":
            kind = ", ".join(roles_of_plugin(plugin)) or "plugin"
        table.add_row(kind, _title(instance), _origin(instance), _parameters(instance))
    for parser in loaded.parsers:
        if parser.type_name not in {instance.type_name for instance in loaded.instances}:
            table.add_row("parser", parser.type_name, "default", "")
    return table


def _queues(loaded: Loaded, flow: FlowControlSettings) -> Table:
    names = {id(step.plugin): step.name for step in loaded.policies}
    table = Table(title="queues", title_justify="left", caption_justify="left")
    for name in ("priority", "max requests", "max bytes", "fairness", "order"):
        table.add_column(name, no_wrap=True)
    bands: list[tuple[str, BandSettings]] = [
        (str(priority), band) for priority, band in sorted(flow.registry.bands.items(), reverse=True)
    ]
    bands.append(("others", flow.registry.default))
    if flow.registry.negative is not None:
        bands.append(("others below 0", flow.registry.negative))
    for name, band in bands:
        policies = names[id(band.fairness)], names[id(band.order)]
        table.add_row(name, *_limits(band.limits), *policies)
    table.add_row("all together", *_limits(flow.limits), "", "")
    table.caption = (
        f"a request waits {_wait(flow.ttl_s)}, while there is no endpoint {_wait(flow.no_endpoint_ttl_s)}; "
        f"bands are held back by {names[id(flow.usage)]}; running requests are "
        f"{'aborted for more important ones' if flow.eviction is not None else 'left alone'}"
    )
    return table


def _limits(limits: Limits) -> tuple[str, str]:
    return _limit(limits.max_requests), _limit(limits.max_bytes)


def _limit(amount: int | None) -> str:
    return "unlimited" if amount is None else f"{amount:,}"


def _wait(seconds: float | None) -> str:
    return "without end" if seconds is None else f"at most {seconds:g} s"


def _title(instance: Instance) -> str:
    return instance.name if instance.name == instance.type_name else f"{instance.name} ({instance.type_name})"


def _origin(instance: Instance) -> str:
    return "configuration" if instance.path else "default"


def _parameters(instance: Instance) -> Text:
    parts = (f"{name}={plain(value)}" for name, value in values_of(instance.parameters).items())
    return Text(" ".join(parts))
