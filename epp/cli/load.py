"""`epp load`: plays load at an OpenAI-compatible URL and reports what came back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import click
from rich.console import Console

from epp.cli.loadoptions import GROUPS, LoadCommand
from epp.cli.loadreport import compare, publish
from epp.load import arrivals
from epp.load.calls import Endpoint, Manner, Mix, Workload
from epp.load.conversations import Conversations, Shape, scaled
from epp.load.fetch import first_model
from epp.load.player import Limits
from epp.load.progress import add, bars, unwatch, watch
from epp.load.run import Run, play, raise_open_files
from epp.load.summary import parse_goodput
from epp.load.traces import Replay, read
from epp.load.transport import Pool, Target, TransportError
from epp.load.workload import RandomPrompts, SharedPrefixes, arrive

HELP = """Play load at URL, the base of an OpenAI-compatible server or gateway, and report latencies.

The loop is open: requests are sent when they are due, whatever became of the ones before, so latencies
hide no queueing. Latencies are those of vLLM's benchmark: TTFT, TPOT, ITL, E2EL.

\b
  epp load http://localhost:8081 --request-rate 20 --duration 60
  epp load http://localhost:8081 --workload conversation --pause-scale .05 --length-scale .3
  epp load http://localhost:8081 --trace conversation.jsonl --speed 2 --goodput ttft:500 tpot:50
  epp load --compare before.json after.json --plot both.svg
"""


def _load(url: str | None, compared: tuple[Path, Path] | None, **options: Any) -> None:
    plot = options["plot"]
    if plot is not None and plot.suffix not in (".svg", ".html"):
        raise click.BadParameter("must end in .svg or .html", param_hint="--plot")
    if compared:
        if url:
            raise click.UsageError("--compare plays no load: leave the URL away")
        compare(Console(), *compared, plot)
        return
    if not url:
        raise click.UsageError("Missing argument 'URL'.")
    try:
        target = Target.parse(url)
        goodput = parse_goodput(options["goodput"])
        check(options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if not options["stream"] and goodput.keys() & {"ttft", "tpot"}:
        raise click.UsageError("without streaming there is no TTFT or TPOT to limit: use e2el")
    raise_open_files()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            run, settings = runner.run(_run(target, options))
    except (TransportError, TimeoutError, ValueError, OSError) as error:
        raise click.ClickException(f"{target.url}: {error or 'no answer in time'}") from error
    summary = publish(Console(), run, settings, goodput, options["output"], plot)
    if run.interrupted:
        sys.exit(130)
    if summary.failed and options["fail_on_error"]:
        sys.exit(1)


load = LoadCommand(
    "load",
    callback=_load,
    params=[click.Argument(["url"], required=False), *(option for _, group in GROUPS for option in group)],
    help=HELP,
    short_help="Play load at an OpenAI-compatible URL and report latencies.",
    context_settings={"max_content_width": 100},
)


async def _run(target: Target, options: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    pool = Pool(target, verify=not options["insecure"])
    console = Console(stderr=True, quiet=not options["progress"])
    try:
        headers = dict(options["headers"])
        if options["api_key"]:
            headers["authorization"] = f"Bearer {options['api_key']}"
        models = options["models"] or Mix((await first_model(pool, headers),), (1.0,))
        workload, limits = build(options, models, headers)
        settings = _settings(target, options, models)
        with bars(console) as progress:
            task = add(progress, str(settings["workload"]))
            watcher: list[asyncio.Task[None]] = []

            def started(live: Any, clock: Callable[[], float]) -> None:
                shown = watch(progress, task, live, clock, seconds=limits.seconds, requests=limits.requests)
                watcher.append(asyncio.create_task(shown))

            try:
                run = await play(
                    pool,
                    workload,
                    limits,
                    timeout_s=options["timeout"],
                    endpoint_headers=options["endpoint_headers"],
                    name=f"load-{options['seed']}",
                    on_start=started,
                )
            finally:
                await unwatch(watcher)
        return run, settings
    finally:
        await pool.close()


def check(options: dict[str, Any]) -> None:
    """What can be known to be wrong before anything is asked of the target. Raises ValueError."""
    if options["arrivals_text"]:
        arrivals.parse(options["arrivals_text"], Random(0))
        if options["trace"]:
            raise ValueError("a trace brings its own arrivals: use --speed")
    if options["workload"] == "trace" and options["trace"] is None:
        raise ValueError("--workload trace needs --trace FILE")
    if options["max_turns"] < options["min_turns"]:
        raise ValueError("--max-turns is below --min-turns")


def build(options: dict[str, Any], models: Mix, headers: dict[str, str]) -> tuple[Workload, Limits]:
    """The workload and its bounds from the command's options. Raises ValueError, OSError."""
    manner = Manner(
        models=models,
        endpoint=Endpoint.CHAT if options["endpoint"] == "chat" else Endpoint.COMPLETIONS,
        stream=options["stream"],
        ignore_eos=options["ignore_eos"],
        headers=headers,
        objectives=options["objectives"] or Mix(),
        flows=options["flows"] or Mix(),
        extra=options["extra_body"],
    )
    seed, requests, duration = options["seed"], options["requests"], options["duration"]
    kind = "trace" if options["trace"] else options["workload"]
    limits = Limits(
        requests=requests,
        seconds=duration,
        max_open=options["max_open"],
        max_concurrency=options["max_concurrency"],
    )
    if kind == "trace":
        entries = list(islice(read(options["trace"]), requests))
        return Replay(manner, seed, entries, options["speed"]).arrivals(), replace(
            limits, requests=len(entries)
        )
    if requests is None and duration is None:
        limits = replace(limits, requests=100)
    rng = Random(f"{seed}/arrivals")
    if options["arrivals_text"]:
        when = arrivals.parse(options["arrivals_text"], rng)
    else:
        when = arrivals.gamma(options["request_rate"], options["burstiness"], rng)
    when = arrivals.bounded(when, count=limits.requests, seconds=duration)
    if kind == "conversation":
        shape = scaled(
            Shape(
                systems=options["systems"],
                min_turns=options["min_turns"],
                max_turns=options["max_turns"],
                max_context=options["max_context"],
            ),
            options["length_scale"],
            options["pause_scale"],
        )
        return arrive(when, seed, Conversations(manner, seed, shape).make), limits
    if kind == "shared-prefix":
        groups = SharedPrefixes(
            manner,
            seed,
            groups=options["groups"],
            question_tokens=options["input_tokens"],
            output_tokens=options["output_tokens"],
            prompts=options["prompts_per_group"],
            system_tokens=options["system_tokens"],
        )
        return arrive(when, seed, groups.make), limits
    prompts = RandomPrompts(
        manner, seed, options["input_tokens"], options["output_tokens"], options["shared_tokens"]
    )
    return arrive(when, seed, prompts.make), limits


def _settings(target: Target, options: dict[str, Any], models: Mix) -> dict[str, Any]:
    """What a reader of the result file needs to repeat the run; no keys, no header values."""
    kept = (
        "workload", "speed", "arrivals_text", "request_rate", "burstiness", "requests", "duration",
        "shared_tokens", "groups", "prompts_per_group", "system_tokens", "length_scale", "pause_scale",
        "systems", "min_turns", "max_turns", "max_context", "endpoint", "stream", "ignore_eos",
        "max_concurrency", "timeout", "seed",
    )  # fmt: skip
    settings: dict[str, Any] = {name.removesuffix("_text"): options[name] for name in kept}
    settings |= {"url": target.url, "models": dict(zip(models.names, models.weights, strict=True))}
    settings |= {name: str(options[name]) for name in ("input_tokens", "output_tokens")}
    if options["trace"]:
        settings |= {"workload": "trace", "trace": options["trace"].name}
    return settings


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: half the cost of a streamed chunk."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
