"""`epp sim`: one or many simulated model servers in one process."""

from __future__ import annotations

import asyncio
import re
import signal
from dataclasses import replace
from pathlib import Path

import click
import uvloop

from epp.sim.faults import Faults, changed, parse
from epp.sim.fleet import Fleet
from epp.sim.profile import DEFAULT, PROFILES, Profile
from epp.sim.server import MODEL, Settings


def _label(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Names go into headers and the endpoints file."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,200}[A-Za-z0-9])?", value):
        raise click.BadParameter(f"{value!r} is not made of letters, digits, '-' and '.'")
    return value


@click.command()
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="First port, the others follow; 0: free ones.",
)
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, 1024), help="Engines to start.")
@click.option("--host", default="127.0.0.1", show_default=True, help="IP address to listen on.")
@click.option("--model", default=MODEL, show_default=True, help="Name of the served model.")
@click.option("--lora", "loras", multiple=True, help="Name of a loaded LoRA adapter; repeatable.")
@click.option("--max-loras", default=1, show_default=True, type=click.IntRange(1), help="LoRA slots.")
@click.option("--profile", default=DEFAULT, show_default=True, type=click.Choice(list(PROFILES)))
@click.option("--kv-blocks", type=click.IntRange(1), help="Blocks of KV cache, instead of the profile's.")
@click.option("--block-size", type=click.Choice(["8", "16", "32", "64", "128"]), help="Tokens a block.")
@click.option("--max-model-len", type=click.IntRange(2), help="Most tokens of prompt and answer together.")
@click.option("--max-num-seqs", type=click.IntRange(1), help="Most sequences in a batch.")
@click.option("--max-num-batched-tokens", type=click.IntRange(1), help="Most tokens of one step.")
@click.option(
    "--max-waiting",
    default=1000,
    show_default=True,
    type=click.IntRange(1),
    help="Waiting requests; over it, 429.",
)
@click.option(
    "--speed", default=1.0, show_default=True, type=click.FloatRange(0.001, 1000), help="Time factor."
)
@click.option("--seed", default=0, show_default=True, help="Of answers, step times and faults.")
@click.option(
    "--name",
    default="sim",
    callback=_label,
    show_default=True,
    help="Engines are called NAME-0, NAME-1 and so on.",
)
@click.option(
    "--namespace", default="default", callback=_label, show_default=True, help="Namespace of the endpoints."
)
@click.option(
    "--endpoints-out", type=click.Path(path_type=Path), help="Write the endpoints file for discovery."
)
@click.option("--admin-port", type=click.IntRange(0), help="A port for /sim/ alone that no fault touches.")
@click.option("--fault", "faults", multiple=True, help="[ENGINE:]NAME=VALUE[,...], as /sim/faults takes it.")
def sim(
    port: int,
    count: int,
    host: str,
    model: str,
    loras: tuple[str, ...],
    max_loras: int,
    profile: str,
    kv_blocks: int | None,
    block_size: str | None,
    max_model_len: int | None,
    max_num_seqs: int | None,
    max_num_batched_tokens: int | None,
    max_waiting: int,
    speed: float,
    seed: int,
    name: str,
    namespace: str,
    endpoints_out: Path | None,
    admin_port: int | None,
    faults: tuple[str, ...],
) -> None:
    """Start model servers that behave like vLLM without a GPU."""
    constants = _sized(
        PROFILES[profile], kv_blocks, int(block_size) if block_size else None, max_model_len, max_num_seqs,
        max_num_batched_tokens,
    )  # fmt: skip
    settings = Settings(
        profile=constants,
        model=model,
        loras=loras,
        max_loras=max_loras,
        max_waiting=max_waiting,
        seed=seed,
        speed=speed,
        namespace=namespace,
    )
    ports = [port + i if port else 0 for i in range(count)]
    if ports[-1] > 65_535:
        raise click.ClickException(f"ports {port} to {ports[-1]} go past 65535")
    at_start = _faults(faults, [f"{name}-{i}" for i in range(count)])
    try:
        uvloop.run(_run(settings, ports, host, name, endpoints_out, admin_port, at_start))
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


async def _run(
    settings: Settings,
    ports: list[int],
    host: str,
    prefix: str,
    endpoints_out: Path | None,
    admin_port: int | None,
    faults: dict[str, Faults],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    fleet = Fleet(settings, ports, host=host, prefix=prefix)
    await fleet.open()
    try:
        if admin_port is not None:
            click.echo(f"admin http://{_shown(host)}:{await fleet.open_admin(admin_port)}/sim/faults")
        for listener in fleet.listeners:
            server = listener.server
            click.echo(f"{server.name} http://{_shown(host)}:{server.port} {settings.model}")
            if server.name in faults:
                listener.set_faults(faults[server.name])
        if endpoints_out is not None:
            fleet.write_endpoints(endpoints_out)
            click.echo(f"endpoints {endpoints_out}")
        await stop.wait()
    finally:
        fleet.close()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _sized(
    profile: Profile,
    kv_blocks: int | None,
    block_size: int | None,
    max_model_len: int | None,
    max_num_seqs: int | None,
    max_num_batched_tokens: int | None,
) -> Profile:
    """The profile with what was given instead. A smaller cache or longer block bounds the rest with it."""
    size = block_size or profile.block_tokens
    if kv_blocks is None:
        kv_blocks = profile.kv_blocks * profile.block_tokens // size
    if max_model_len is None:
        max_model_len = min(profile.max_model_len, kv_blocks * size)
    seqs = max_num_seqs or profile.max_num_seqs
    return replace(
        profile,
        kv_blocks=kv_blocks,
        block_tokens=size,
        max_model_len=max_model_len,
        max_num_seqs=seqs,
        max_num_batched_tokens=max_num_batched_tokens or max(profile.max_num_batched_tokens, seqs),
    )


def _faults(words: tuple[str, ...], names: list[str]) -> dict[str, Faults]:
    """Faults at the start by engine; those without an engine are everyone's."""
    result: dict[str, Faults] = {}
    for word in words:
        name, colon, rest = word.partition(":")
        if colon and name not in names:
            raise click.BadParameter(
                f"no engine {name!r}; there are {names[0]} to {names[-1]}", param_hint="--fault"
            )
        try:
            update = parse(rest if colon else word)
            for each in [name] if colon else names:
                result[each] = changed(result.get(each, Faults()), update)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--fault") from None
    return result
