"""Overload in virtual time: what each priority and each tenant gets while far more comes than fits.

    python bench/overload.py [--load 0.5,1,1.5,2,2.5,3] [--seeds 3] [--pictures docs/img] ...

Three bands (a fifth of the load in the top one), ten tenants of which one floods, over the engines of
`epp sim` without sockets; routing, ledger, snapshots and queues are those of `epp serve`. The same requests
under no admission, under the reference's rules without flow control, and under flow control with the settings
that docs/overload.md recommends. Of refused clients half go away, a quarter comes back once and a quarter
twice, when Retry-After says; nobody gives up waiting for an answer.

Load 1 is what the engines finish while each always has a full batch waiting. Nothing depends on this machine.
Prints tables and what is wanted and reached, writes out/bench-overload.json; exits 1 where less is reached.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
from overload_admission import Build
from overload_figures import Figures, Played, Span, figures
from overload_pictures import draw
from overload_run import Run, capacity, engines_of
from overload_scene import asks
from overload_settings import OPEN, OURS, REFERENCE, admissions
from overload_tables import bands_table, reached, tenants_table, wanted_table
from rich.console import Console

from epp.sim.profile import DEFAULT, PROFILES, Profile

ROOT = Path(__file__).resolve().parent.parent
SPAN = Span(60.0, 150.0)


@dataclass(frozen=True, slots=True)
class Scene:
    profile: Profile
    engines: int
    scrape_s: float
    span: Span
    requests_s: float
    """Capacity."""

    def play(self, admission: str, load: float, seed: int) -> Played:
        return self.run(admissions(self.engines, seed)[admission], load, seed)

    def run(self, build: Build, load: float, seed: int) -> Played:
        engines = engines_of(self.profile, self.engines, seed)
        coming = asks(load, self.requests_s, self.span.until_s + self.span.tail_s, seed)
        run = Run(coming, engines, build, scrape_s=self.scrape_s, seed=seed)
        run.play()
        return Played(run.jobs, run.sent)


def bench_profile(prefill_us: float) -> Profile:
    return replace(PROFILES[DEFAULT], prefill_token_s=prefill_us * 1e-6)


def _loads(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        loads = tuple(float(part) for part in value.split(","))
    except ValueError:
        loads = ()
    if not loads or not all(0.46 <= load < 100 for load in loads):
        raise click.BadParameter(f"{value!r}: write loads of at least 0.46, with commas")
    return loads


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else "")
@click.option("--load", "loads", default="0.5,1,1.5,2,2.5,3", show_default=True, callback=_loads)
@click.option("--engines", type=click.IntRange(1, 1000), default=8, show_default=True)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each.")
@click.option(
    "--warm", type=click.FloatRange(0), default=SPAN.warm_s, show_default=True, help="Seconds, not counted."
)
@click.option(
    "--seconds", type=click.FloatRange(1), default=SPAN.seconds, show_default=True, help="Counted ones."
)
@click.option("--prefill-us", type=click.FloatRange(1), default=100.0, show_default=True)
@click.option("--scrape-ms", type=click.FloatRange(50, 60_000), default=100.0, show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--pictures", type=click.Path(file_okay=False, path_type=Path), help="Where to draw curves.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=ROOT / "out/bench-overload.json"
)
def main(
    loads: Sequence[float], engines: int, seeds: int, warm: float, seconds: float, prefill_us: float,
    scrape_ms: float, jobs: int, pictures: Path | None, out: Path,
) -> None:  # fmt: skip
    began = time.perf_counter()
    console = Console(width=max(140, Console().width))
    profile = bench_profile(prefill_us)
    requests_s, tokens_s = capacity(profile, engines, 1, warm_s=60.0, until_s=360.0)
    span = Span(warm, warm + seconds)
    scene = Scene(profile, engines, scrape_ms / 1000, span, requests_s)
    cells = [(name, load) for load in loads for name in (OPEN, REFERENCE, OURS)]
    done: list[Figures] = []
    with ProcessPoolExecutor(jobs) as pool:
        runs = [[pool.submit(scene.play, *cell, seed) for seed in range(1, seeds + 1)] for cell in cells]
        for (name, load), futures in zip(cells, runs, strict=True):
            played = [future.result() for future in futures]
            futures.clear()
            done.append(figures(name, load, played, span, requests_s, tokens_s))
    console.print(
        f"{engines} x {DEFAULT}, {prefill_us:g} us a prompt token, scraped every {scrape_ms:g} ms: at most "
        f"{requests_s:.1f} requests and {tokens_s:,.0f} tokens a second; {seeds} x {seconds:g} s"
    )
    console.print(bands_table(done), tenants_table(done))
    lines = reached(done)
    console.print(wanted_table(lines))
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        for name, text in draw(done).items():
            (pictures / name).write_text(text)
    setting = {
        "engines": engines, "profile": asdict(profile), "requests_s": requests_s, "tokens_s": tokens_s,
        "seeds": seeds, "warm_s": warm, "seconds": seconds, "scrape_ms": scrape_ms,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"setting": setting, "runs": [asdict(one) for one in done]}, indent=1) + "\n")
    console.print(f"{len(cells) * seeds} runs in {time.perf_counter() - began:.0f} s; written: {out}")
    sys.exit(0 if all(line.kept for line in lines) else 1)


if __name__ == "__main__":
    main()
