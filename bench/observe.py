"""What not looking at answers costs in routing: every way to observe, in virtual time.

    python bench/observe.py [--workload chats] [--trace FILE] [--load 1.0,1.6,2.2] [--minutes 8] [--seeds 3]

The same requests as bench/policy.py plays, under the default policy, with the picker's own observation: `all`
sees every first token, `sampled` some, `ends` none but for the engines' own counts in what is scraped.
Engines send a streamed answer's headers at once, as vLLM does, so these tell nothing of the first token;
answers that are not streamed come in one piece. Routing is chaotic: a single request that goes elsewhere
changes all that follow, so figures are means over several seeds, each with its own workload. Prints ratios to
`all` and writes out/bench-observe.json.

`blind` leaves prompts in the ledger until their answers end, as a picker without estimates would have to.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import click
import msgspec
import numpy as np
from policy_routers import Picker, Sent
from policy_run import Figures, Run
from policy_workloads import KINDS, Kind, Session, from_trace, generated
from rich import box
from rich.console import Console
from rich.table import Table

from epp.cli.demo import scene
from epp.config.loader import load_preset
from epp.datalayer.load import Load
from epp.datalayer.observation.due import Watch
from epp.datalayer.observation.gateways import Mode
from epp.datalayer.observation.observation import Observation
from epp.domain.request import AnswerView, Request, Usage
from epp.domain.views import Report
from epp.load.calls import Manner, Mix
from epp.load.conversations import Conversations
from epp.load.traces import TraceError
from epp.sim.engine import Engine
from epp.sim.profile import PROFILES, Profile

ROOT = Path(__file__).resolve().parent.parent
PROFILE = replace(PROFILES["llama-3.1-8b-h100"], prefill_token_s=100e-6)
"""As in bench/policy.py."""
DEMO = PROFILES["llama-3.1-8b-h100"]
"""As `epp demo` runs them."""
SCRAPE_S = 0.1
VIEWS = {"all": AnswerView.ALWAYS, "sampled": AnswerView.CHOICE, "ends": AnswerView.NEVER}
BLIND = "blind"
WORKLOADS = {
    **KINDS,
    "demo": Kind(
        "the chats of `epp demo`",
        scene.CHATS_A_SECOND / 8,
        lambda seed: Conversations(Manner(Mix((scene.MODEL,), (1.0,))), seed, scene.SHAPE).make,
    ),
}


@dataclass(slots=True)
class Watched:
    """A routed request of which the picker learns what its gateway shows."""

    router: WatchingPicker
    sent: Sent
    request: Request
    watch: Watch | None
    sent_at: float
    first_at: float = 0.0

    @property
    def engine(self) -> int:
        return self.sent.engine

    def first_token(self, now: float) -> None:
        """A streamed answer's; one in whole shows nothing before its end."""
        self.first_at = now
        self.router.counts.add(self.engine, now - self.sent_at)
        if self.watch is None:
            if self.request.stream and not self.router.blind:
                self.sent.first_token(now)
        elif self.watch.observe and self.request.stream:
            self.sent.first_token(now)
            self.router.observation.first_token(self.watch, now)

    def ended(self, output_tokens: int, now: float) -> None:
        watch, observation = self.watch, self.router.observation
        if watch is None:
            self.sent.ended(output_tokens, now)
            return
        if not self.request.stream:
            observation.begun(watch, streamed=False)
        if not watch.observe:
            self.sent.entry.end()
            observation.ended(watch, self.request, Report(), 200, now)
            return
        self.sent.ended(output_tokens, now)
        usage = Usage(completion_tokens=output_tokens)
        first_at = self.first_at if self.request.stream else now
        observation.ended(watch, self.request, Report(True, first_at=first_at, usage=usage), 200, now)


class EngineCounts:
    """Of first tokens, as engines have them in their metrics, whoever sent the requests."""

    def __init__(self, engines: int) -> None:
        self.first = [0] * engines
        self.seconds = [0.0] * engines

    def add(self, engine: int, seconds: float) -> None:
        self.first[engine] += 1
        self.seconds[engine] += seconds


class WatchingPicker(Picker):
    """A picker behind a gateway that shows answers in one way."""

    def __init__(self, how: str, engines: int, seed: int, counts: EngineCounts, *, streamed: bool) -> None:
        super().__init__(load_preset(), engines, scrape_s=SCRAPE_S, seed=seed)
        self.blind = how == BLIND
        self.observation = Observation(self.ledger, Random(seed), mode=Mode.AUTO)
        self._view = VIEWS.get(how, AnswerView.ALWAYS)
        self._streamed = streamed
        self.counts = counts

    def choose(self, request: Request, now: float) -> Watched:  # type: ignore[override]
        observation = self.observation
        request.head = msgspec.structs.replace(request.head, answer_view=self._view)
        request.stream = self._streamed
        observation.settle(now)
        sent = super().choose(request, now)
        watch = None if self.blind else observation.watch(
            request, sent.entry, uncached=sent.uncached_tokens, output=sent.expected_output,
            rewritten=False, now=now,
        )  # fmt: skip
        if watch is not None and request.stream:
            observation.begun(watch, streamed=True)
        return Watched(self, sent, request, watch, now)

    def scraped(self, engine: int, load: Load, now: float) -> None:
        super().scraped(engine, load, now)
        if self.observation.wants_counts:
            slot = self.store.endpoints[engine].slot
            self.observation.first_tokens(slot, self.counts.first[engine], self.counts.seconds[engine], now)

    def check(self) -> None:
        """After a run: nothing is left in the ledger. Raises ValueError."""
        if self.faults.seen or self.ledger.open_entries:
            raise ValueError(f"faults {dict(self.faults.seen)}, entries left {self.ledger.open_entries}")
        left = self.ledger.prefill_tokens(self._rows)
        if np.any(left != 0.0):
            raise ValueError(f"prefill tokens left behind: {left.tolist()}")


@dataclass(frozen=True, slots=True)
class Outcome:
    figures: Figures
    observed_share: float


def play(
    sessions: Sequence[Session], how: str, *, engines: int, speed: float, seed: int, minutes: float,
    streamed: bool = True, profile: Profile = PROFILE, pickers: int = 1,
) -> Outcome:  # fmt: skip
    """One run; the ledger must be empty after it."""
    simulated = [Engine(profile, seed=seed + i, max_waiting=1 << 30) for i in range(engines)]
    counts = EngineCounts(engines)
    routers = [
        WatchingPicker(how, engines, seed + number, counts, streamed=streamed) for number in range(pickers)
    ]
    run = Run(sessions, simulated, routers, speed=speed, scrape_s=SCRAPE_S, until_s=minutes * 60 / speed)
    figures = run.play()
    seen = total = 0
    for router in routers:
        router.check()
        for key, count in router.observation.answers():
            assert isinstance(count, int)
            total += count
            seen += count if key[0] == "true" else 0
    return Outcome(figures, seen / total if total else 1.0)


def _loads(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        loads = tuple(float(part) for part in value.split(","))
    except ValueError:
        loads = ()
    if not loads or not all(0 < load < 1000 for load in loads):
        raise click.BadParameter(f"{value!r}: write factors above 0, with commas")
    return loads


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else "")
@click.option("--workload", type=click.Choice(list(WORKLOADS)), default="chats", show_default=True)
@click.option("--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON lines.")
@click.option("--load", "loads", default="1.0,1.6,2.2", show_default=True, callback=_loads)
@click.option("--minutes", type=click.FloatRange(0.1, 1440), default=8.0, show_default=True, help="At x1.0.")
@click.option("--engines", type=click.IntRange(1, 10_000), default=8, show_default=True)
@click.option("--prefill-us", type=click.FloatRange(1), help="A prompt token [default: 100; demo: 250].")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--pickers", type=click.IntRange(1, 64), default=1, show_default=True, help="Replicas.")
@click.option("--whole", is_flag=True, help="Answers that are not streamed.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=ROOT / "out/bench-observe.json"
)
def main(
    workload: str, trace: Path | None, loads: Sequence[float], minutes: float, engines: int,
    prefill_us: float | None, seeds: int, pickers: int, whole: bool, out: Path,
) -> None:  # fmt: skip
    began = time.perf_counter()
    prefill_us = prefill_us or (250.0 if workload == "demo" else 100.0)
    profile = replace(PROFILE, prefill_token_s=prefill_us * 1e-6)
    played = trace.name if trace else workload
    title = f"{played}, {minutes:g} min; {engines} engines, {prefill_us:g} us a prompt token; {seeds} seeds"
    title += f"; {pickers} pickers" if pickers > 1 else ""
    title += "; not streamed" if whole else ""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name in ("load", "observed", "answers seen", "TTFT s", "p99", "TTFT / all's", "p99 / all's"):
        table.add_column(name, justify="right" if name not in ("load", "observed") else "left")
    rows: list[dict[str, object]] = []
    workloads: dict[int, list[Session]] = {}
    try:
        for seed in range(1, seeds + 1):
            workloads[seed] = (
                from_trace(trace, minutes)
                if trace
                else generated(WORKLOADS[workload], engines, minutes, seed)
            )
    except (TraceError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for speed in loads:
        base = (1.0, 1.0)
        for how in (*VIEWS, BLIND):
            outcomes = [
                play(sessions, how, engines=engines, speed=speed, seed=seed, minutes=minutes,
                     streamed=not whole, profile=profile, pickers=pickers)
                for seed, sessions in workloads.items()
            ]  # fmt: skip
            ttft = float(np.mean([o.figures.ttft_mean_s for o in outcomes]))
            p99 = float(np.mean([o.figures.ttft_p99_s for o in outcomes]))
            share = float(np.mean([o.observed_share for o in outcomes]))
            if how == "all":
                base = (ttft, p99)
            ratios = (ttft / base[0], p99 / base[1])
            shown = "-" if how == BLIND else f"{share:.1%}"
            table.add_row(
                f"x{speed:g}", how, shown, f"{ttft:.3f}", f"{p99:.2f}", *(f"{r:.3f}" for r in ratios)
            )
            rows.append({
                "load": speed, "observed": how, "answers_seen": share, "ttft_s": ttft, "p99_s": p99,
                "ttft_ratio": ratios[0], "p99_ratio": ratios[1],
            })  # fmt: skip
        table.add_section()
    Console(width=110).print(table)
    setting = {
        "workload": played, "minutes": minutes, "engines": engines, "seeds": seeds, "whole": whole,
        "prefill_us": prefill_us, "pickers": pickers,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"setting": setting, "runs": rows}, indent=1) + "\n")
    click.echo(f"{time.perf_counter() - began:.0f} s; written: {out}")


if __name__ == "__main__":
    main()
    sys.exit(0)
