"""The table of commands. Each lives in a file of its own that is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click

from epp.config.problems import choices, nearest

COMMANDS = {
    "serve": "epp.cli.serve:serve",
    "route-by-model": "epp.cli.route_by_model:route_by_model",
    "check": "epp.cli.check:check",
    "doctor": "epp.cli.doctor:doctor",
    "plugins": "epp.cli.plugins:plugins",
    "route": "epp.cli.route:route",
    "sim": "epp.cli.sim:sim",
    "load": "epp.cli.load:load",
    "demo": "epp.cli.demo:demo",
}


class LazyGroup(click.Group):
    """Imports a command's module on first use, so that `epp load` does not pay for grpc."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = nearest(name, COMMANDS) or f"; there are {choices(COMMANDS)}"
            ctx.fail(f"no command is named '{name}'{close}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="inference-epp", prog_name="epp")
def epp() -> None:
    """Picks the model server for every request of an Envoy-based inference gateway, and says why."""
