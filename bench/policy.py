"""Routing policies compared in virtual time: the picker's real rooms over simulated engines.

    python bench/policy.py [--workload chats] [--trace FILE] [--load 1.0,1.6,2.2] [--minutes 8] ...

Plays the same requests under every policy. Engines are those of `epp sim`, without sockets; decisions,
ledger, prefix index and snapshots are those of `epp serve`, and scrapes report the engines' state every
--scrape-ms of virtual time. Clients send no session headers back. Nothing depends on this machine but the
decision times (prompt hashing included, parsing not). Writes a table and out/bench-policy.json; exits 1 when
a plugin failed.

The default profile is llama-3.1-8b-h100 with 100 us a prompt token instead of 250 us: 16 GFLOP a token in
100 us is a sixth of the card's dense peak. So load 1.0 of chats is comfortable and 2.2 too much.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
from policy_routers import LEAST_REQUESTS, Picker, RoundRobin, Router
from policy_run import Figures, Run
from policy_workloads import ENGINE_BLOCK, KINDS, Session, from_trace, generated
from rich import box
from rich.console import Console
from rich.table import Table

from epp.config.loaded import Loaded
from epp.config.loader import load_file, load_preset, load_text
from epp.config.problems import ConfigError
from epp.load.traces import TraceError
from epp.sim.engine import Engine
from epp.sim.profile import DEFAULT, PROFILES, Profile

ROOT = Path(__file__).resolve().parent.parent
ROUND_ROBIN = "round-robin"
TABLE_WIDTH = 110
POLICIES: dict[str, Callable[[], Loaded]] = {
    "least-requests": lambda: load_text(LEAST_REQUESTS),
    "reference": lambda: load_preset("reference"),
    "expected-work": lambda: load_preset("expected-work"),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything but the policy and the load."""

    profile: Profile
    engines: int
    pickers: int
    slow: dict[int, float]
    scrape_s: float
    seed: int
    minutes: float

    def play(self, sessions: Sequence[Session], policy: str, speed: float) -> tuple[Figures, dict[str, int]]:
        """One run, and the faults of plugins in it."""
        engines = [Engine(self.profile, seed=self.seed + i, max_waiting=1 << 30) for i in range(self.engines)]
        for index, factor in self.slow.items():
            engines[index].slow = factor
        routers = [self._router(policy, number) for number in range(self.pickers)]
        until_s = self.minutes * 60 / speed
        run = Run(sessions, engines, routers, speed=speed, scrape_s=self.scrape_s, until_s=until_s)
        figures = run.play()
        faults = [router.faults.seen for router in routers if isinstance(router, Picker)]
        return figures, {what: count for seen in faults for what, count in seen.items()}

    def _router(self, policy: str, number: int) -> Router:
        if policy == ROUND_ROBIN:
            return RoundRobin(self.engines, first=number * self.engines // self.pickers)
        loaded = POLICIES[policy]() if policy in POLICIES else load_file(policy, allow_experimental=True)
        return Picker(loaded, self.engines, scrape_s=self.scrape_s, seed=self.seed + number)


LEGEND = (
    "TTFT (mean, median, p99) and e2e (mean) from arrival; cached: prompt tokens found in a cache; "
    "prefill: share of the engines' time; requests: fewest and most of an engine; us: a decision, median"
)
COLUMNS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("TTFT s", lambda f: f"{f.ttft_mean_s:.2f}"),
    ("p50", lambda f: f"{f.ttft_p50_s:.2f}"),
    ("p99", lambda f: f"{f.ttft_p99_s:.2f}"),
    ("e2e s", lambda f: f"{f.e2e_mean_s:.1f}"),
    ("cached", lambda f: f"{f.cached_share:.0%}"),
    ("prefill", lambda f: f"{f.prefill_share:.0%}"),
    ("requests", lambda f: f"{min(f.engine_requests)}-{max(f.engine_requests)}"),
    ("us", lambda f: f"{f.decision_p50_us:.0f}"),
)


def table_of(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("load")
    table.add_column("policy", no_wrap=True)
    for name, _ in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _slow(context: click.Context, parameter: click.Parameter, value: Sequence[str]) -> dict[int, float]:
    slow = {}
    for text in value:
        index, _, factor = text.partition("=")
        try:
            slow[int(index)] = float(factor)
        except ValueError:
            raise click.BadParameter(f"{text!r}: write ENGINE=FACTOR") from None
        if not 0 < slow[int(index)] < 1000:
            raise click.BadParameter(f"{text!r}: the factor must be above 0 and below 1000")
    return slow


def _loads(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        loads = tuple(float(part) for part in value.split(","))
    except ValueError:
        loads = ()
    if not loads or not all(0 < load < 1000 for load in loads):
        raise click.BadParameter(f"{value!r}: write factors above 0, with commas")
    return loads


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else "")
@click.option(
    "--policy", "policies", multiple=True, help="Only these: " + ", ".join([ROUND_ROBIN, *POLICIES])
)
@click.option("--config-file", multiple=True, type=click.Path(exists=True, dir_okay=False), help="A policy.")
@click.option("--workload", type=click.Choice(list(KINDS)), default="chats", show_default=True)
@click.option("--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON lines.")
@click.option("--load", "loads", default="1.0,1.6,2.2", show_default=True, callback=_loads)
@click.option("--minutes", type=click.FloatRange(0.1, 1440), default=8.0, show_default=True, help="At x1.0.")
@click.option("--engines", type=click.IntRange(1, 10_000), default=8, show_default=True)
@click.option("--pickers", type=click.IntRange(1, 64), default=1, show_default=True, help="Replicas.")
@click.option("--profile", type=click.Choice(list(PROFILES)), default=DEFAULT, show_default=True)
@click.option("--prefill-us", type=click.FloatRange(0), help="A prompt token [default: 100; others: theirs].")
@click.option("--slow", multiple=True, callback=_slow, help="ENGINE=FACTOR: that one's steps take longer.")
@click.option("--scrape-ms", type=click.FloatRange(50, 60_000), default=100.0, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=ROOT / "out/bench-policy.json"
)
def main(
    policies: Sequence[str], config_file: Sequence[str], workload: str, trace: Path | None,
    loads: Sequence[float], minutes: float, engines: int, pickers: int, profile: str,
    prefill_us: float | None, slow: dict[int, float], scrape_ms: float, seed: int, out: Path,
) -> None:  # fmt: skip
    known = (ROUND_ROBIN, *POLICIES)
    if unknown := [name for name in policies if name not in known]:
        raise click.UsageError(f"unknown policy {unknown[0]!r}; there are {', '.join(known)}")
    if wrong := [index for index in slow if not 0 <= index < engines]:
        raise click.UsageError(f"there is no engine {wrong[0]}")
    chosen = PROFILES[profile]
    if prefill_us is None and profile == DEFAULT:
        prefill_us = 100.0
    if prefill_us is not None:
        chosen = replace(chosen, prefill_token_s=prefill_us * 1e-6)
    assert chosen.block_tokens == ENGINE_BLOCK
    terminal = Console()
    console = terminal if terminal.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)
    began = time.perf_counter()
    try:
        sessions = from_trace(trace, minutes) if trace else generated(KINDS[workload], engines, minutes, seed)
    except (TraceError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if not sessions:
        raise click.ClickException("no request within these minutes")
    scene = Scene(chosen, engines, pickers, slow, scrape_ms / 1000, seed, minutes)
    played = trace.name if trace else f"{workload} (seed {seed})"
    title = (
        f"{played}, {minutes:g} min; {engines} x {profile}, {chosen.prefill_token_s * 1e6:g} us a prompt "
        f"token{f'; {pickers} pickers' if pickers > 1 else ''}; scraped every {scrape_ms:g} ms"
    )
    table = table_of(title)
    results: list[dict[str, object]] = []
    done: list[Figures] = []
    failed: dict[str, int] = {}
    try:
        for speed in loads:
            for policy in [*(policies or known), *config_file]:
                figures, faults = scene.play(sessions, policy, speed)
                done.append(figures)
                failed |= faults
                name = Path(policy).name if policy not in known else policy
                table.add_row(f"x{speed:g}", name, *[show(figures) for _, show in COLUMNS])
                results.append({"load": speed, "policy": policy, **asdict(figures)})
            table.add_section()
    except (ConfigError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    console.print(table, f"[dim]{LEGEND}[/]")
    if refused := sum(figures.refused for figures in done):
        console.print(f"[yellow]{refused} requests were too long for the profile and not served[/]")
    seconds = time.perf_counter() - began
    console.print(
        f"{len(done)} runs of up to {max(f.requests for f in done)} requests in {seconds:.0f} s; "
        f"written: {out}"
    )
    setting = {
        "workload": played, "minutes": minutes, "engines": engines, "pickers": pickers, "slow": slow,
        "scrape_ms": scrape_ms, "seed": seed, "profile": {"name": profile, **asdict(chosen)},
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"setting": setting, "runs": results}, indent=1) + "\n")
    for what, count in failed.items():
        console.print(f"[red]failed {count} times:[/] {what}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
