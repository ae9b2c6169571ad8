"""How the settings of flow control change what overload costs: one line a setting, at one load.

    python bench/overload_tune.py [--load 2] [--seeds 1]

The scene is bench/overload.py's. Each line changes one thing of bench/overload.yaml, the first nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Final

import click
from overload import SPAN, Scene, bench_profile
from overload_figures import Figures, figures
from overload_run import capacity
from overload_settings import AS_IT_IS, ENGINES, Change, flow_control
from overload_tables import seconds
from rich import box
from rich.console import Console
from rich.table import Table

from epp.admission.attained import AttainedService, AttainedServiceParameters
from epp.admission.fairness import GlobalStrict, RoundRobin
from epp.scheduling.contract import NoParameters

BOTH: Final = {"maxRequests": 256, "maxPrefillTokens": 2560}
CHANGES: Final[Mapping[str, Change]] = {
    "as recommended": AS_IT_IS,
    "utilization-detector, one ceiling": Change(utilization=True, min_ceiling=1.0),
    "burst detector without limits, one ceiling": Change(burst={}, min_ceiling=1.0),
    "maxRequests 0": Change(burst={"maxPrefillTokens": 2560}),
    "maxRequests 128": Change(burst={**BOTH, "maxRequests": 128}),
    "maxPrefillTokens 0": Change(burst={"maxRequests": 256}),
    "maxPrefillTokens 2048": Change(burst={**BOTH, "maxPrefillTokens": 2048}),
    "maxPrefillTokens 4096": Change(burst={**BOTH, "maxPrefillTokens": 4096}),
    "maxPrefillTokens 8192": Change(burst={**BOTH, "maxPrefillTokens": 8192}),
    "one ceiling (static 1.0)": Change(min_ceiling=1.0),
    "minCeiling 0.95": Change(min_ceiling=0.95),
    "minCeiling 0.7": Change(min_ceiling=0.7),
    "one ceiling, maxRequests 235": Change(burst={**BOTH, "maxRequests": 235}, min_ceiling=1.0),
    "with eviction": Change(eviction=True),
    "with eviction, one ceiling": Change(eviction=True, min_ceiling=1.0),
    "global-strict fairness": Change(fairness=GlobalStrict(NoParameters())),
    "round-robin fairness": Change(fairness=RoundRobin(NoParameters())),
    "program-aware fairness": Change(fairness=AttainedService(AttainedServiceParameters())),
}


def measure(scene: Scene, tokens_s: float, load: float, seeds: int, name: str) -> Figures:
    runs = [scene.run(flow_control(ENGINES, seed, CHANGES[name]), load, seed) for seed in range(1, seeds + 1)]
    return figures(name, load, runs, scene.span, scene.requests_s, tokens_s)


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else "")
@click.option("--load", type=click.FloatRange(0.46, 100), default=2.0, show_default=True)
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
def main(load: float, seeds: int, jobs: int) -> None:
    profile = bench_profile(100.0)
    requests_s, tokens_s = capacity(profile, ENGINES, 1, warm_s=60.0, until_s=360.0)
    scene = Scene(profile, ENGINES, 0.1, SPAN, requests_s)
    table = Table(title=f"x{load:g}; goodput in % of capacity, p99 TTFT in seconds", box=box.SIMPLE)
    table.add_column("changed", no_wrap=True)
    for name in (
        "goodput",
        "in SLO",
        "interactive",
        "first 30 s",
        "standard",
        "others' batch",
        "least tenant",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    with ProcessPoolExecutor(jobs) as pool:
        for one in pool.map(partial(measure, scene, tokens_s, load, seeds), CHANGES):
            top, standard = one.bands["interactive"], one.bands["standard"]
            table.add_row(
                one.admission, f"{one.goodput:.1%}", f"{one.slo_goodput:.1%}",
                seconds(top.ttft_p99_s), seconds(top.onset_p99_s), seconds(standard.ttft_p99_s),
                seconds(one.bands["batch"].others_p99_s), f"{min(one.answered[1:]):.0%}",
            )  # fmt: skip
    Console(width=max(150, Console().width)).print(table)


if __name__ == "__main__":
    main()
