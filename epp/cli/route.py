"""`epp route`: one decision from the shell, with its reasons. The same way as a served request takes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import SystemRandom
from typing import Any

import click

from epp.admission.gate import Gate
from epp.cli.onepool import OnePool, unreadable
from epp.cli.output import complain
from epp.config.loaded import Loaded
from epp.config.loader import load_file, load_preset
from epp.config.objectives import read_objectives
from epp.config.presets import DEFAULT, PRESETS
from epp.config.problems import ConfigError
from epp.datalayer.endpoints_file import EndpointsFileError
from epp.datalayer.objectives import ObjectiveFiles, Objectives
from epp.datalayer.rewrites import Rewrites
from epp.director import Director
from epp.domain.errors import Answer
from epp.domain.request import RequestHead
from epp.domain.views import Route
from epp.feeds import open_trust
from epp.parsing.select import Parsers
from epp.rooms import Settings
from epp.telemetry.metrics import Metrics
from epp.telemetry.reasons import DecisionLog, describe
from epp.telemetry.reasons_table import table
from epp.telemetry.tracing import Tracer

MAX_BODY_BYTES = 64 << 20
_FILE = click.Path(path_type=Path, dir_okay=False)


def _header(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=" if "=" in text.partition(":")[0] else ":")
        if not sign or not name.strip():
            raise click.BadParameter(f"{text!r} is not name=value or name: value", context, parameter)
        headers[name.strip().lower()] = value.strip()
    return headers


@click.command()
@click.option("--endpoints", required=True, type=_FILE, help="Endpoints file, as file-discovery reads it.")
@click.option(
    "--body", "bodies", required=True, multiple=True, type=click.Path(path_type=Path, allow_dash=True),
    help="Request body, `-` for standard input. Given again: decided after each other, all unfinished.",
)  # fmt: skip
@click.option("--config-file", type=_FILE, help="EndpointPickerConfig; the default is the preset.")
@click.option(
    "--objectives-path", type=click.Path(path_type=Path),
    help="File or folder of InferenceObjective and InferenceModelRewrite documents; the default is the "
    "configuration's.",
)  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), help=f"Built-in configuration.  [{DEFAULT}]")
@click.option("--allow-experimental-plugins", is_flag=True, help="Allow plugins of alpha level.")
@click.option("--path", "url_path", default="/v1/chat/completions", show_default=True, help="URL path.")
@click.option("--method", default="POST", show_default=True)
@click.option("--header", "headers", multiple=True, callback=_header, help="name=value; may be repeated.")
@click.option("--loads", type=_FILE, help="YAML or JSON with loads by endpoint name, instead of scraping.")
@click.option("--scrape/--no-scrape", default=True, help="Ask the endpoints for their load.  [scrape]")
@click.option(
    "--seed",
    type=int,
    help="Repeats a decision whose ties were broken at random; each further body takes the next number.",
)
@click.option("--top", type=click.IntRange(min=1), default=40, show_default=True, help="Candidates shown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def route(
    endpoints: Path,
    bodies: tuple[Path, ...],
    config_file: Path | None,
    objectives_path: Path | None,
    preset: str | None,
    allow_experimental_plugins: bool,
    url_path: str,
    method: str,
    headers: dict[str, str],
    loads: Path | None,
    scrape: bool,
    seed: int | None,
    top: int,
    as_json: bool,
) -> None:
    """Decide where one request would go, and say why; nothing is sent to a model server.

    Exits with status 1 when the request is refused.

    \b
    A file for --loads (every field may be left out):
      engine-0: {waiting: 3, running: 8, kvUsed: 0.7, blockSize: 16, numBlocks: 9000,
                 loraMax: 4, loraRunning: [sql], loraWaiting: [], models: [base, sql],
                 ourRequests: 2, ourPrefillTokens: 900, ourDecodeTokens: 300}
    """
    if config_file is not None and preset is not None:
        raise click.UsageError("--config-file and --preset exclude each other")
    if [str(body) for body in bodies].count("-") > 1:
        raise click.UsageError("standard input holds one body")
    try:
        if config_file is not None:
            loaded = load_file(config_file, allow_experimental=allow_experimental_plugins)
        else:
            loaded = load_preset(preset or DEFAULT)
        complain(loaded.notices, word="notice: ")
        pool = _pool(loaded, endpoints, loads, scrape)
    except ConfigError as error:
        complain(error.problems)
        raise click.exceptions.Exit(1) from error
    first_seed = SystemRandom().getrandbits(32) if seed is None else seed
    try:
        director = _director(loaded, pool, objectives_path, count(first_seed).__next__)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    answers: list[dict[str, Any]] = []
    refused = False
    for number, path in enumerate(bodies, 1):
        body = _body(path)
        head = RequestHead(
            headers={":method": method, ":path": url_path} | headers, method=method,
            path=url_path.partition("?")[0], request_id=f"request-{number}",
            received_at=time.monotonic(), has_body=bool(body),
        )  # fmt: skip
        verdict = director.open(head).decide(body)
        if not isinstance(verdict, Route | Answer):
            raise click.ClickException("the request would have to wait in a queue")
        refused = refused or isinstance(verdict, Answer)
        if as_json:
            answers.append(_json(director, head, verdict, len(pool.store)))
        else:
            if number > 1:
                click.echo()
            _say(director, head, verdict, top)
    if as_json:
        click.echo(json.dumps(answers if len(answers) > 1 else answers[0], indent=2, ensure_ascii=False))
    if refused:
        raise click.exceptions.Exit(1)


def _pool(loaded: Loaded, endpoints: Path, loads: Path | None, scrape: bool) -> OnePool:
    pool = OnePool()
    try:
        lost = pool.read_endpoints(endpoints)
    except EndpointsFileError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise unreadable(endpoints, error) from error
    for spec in lost[:10]:
        print(f"notice: {spec.address} of entry {spec.name} has no address", file=sys.stderr)
    if loads is not None:
        try:
            pool.read_loads(loads)
        except OSError as error:
            raise unreadable(loads, error) from error
    elif scrape:
        silent = pool.scrape(loaded.data)
        for endpoint in silent[:10]:
            print(f"notice: {endpoint.key} ({endpoint.authority}) gave no metrics", file=sys.stderr)
        if len(silent) > 10:
            print(f"notice: nor did {len(silent) - 10} more", file=sys.stderr)
    return pool


def _body(path: Path) -> bytes:
    try:
        body = sys.stdin.buffer.read(MAX_BODY_BYTES + 1) if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror}") from error
    if len(body) > MAX_BODY_BYTES:
        raise click.ClickException(f"{path} is larger than {MAX_BODY_BYTES} bytes")
    return body


def _director(
    loaded: Loaded, pool: OnePool, objectives_path: Path | None, seed: Callable[[], int]
) -> Director:
    """Raises ValueError for objectives and rewrites that are wrong and a secret that is not there."""
    own = loaded.own
    objectives, rewrites = Objectives(own.objectives.default_priority), Rewrites()
    path = objectives_path or (Path(own.objectives.path) if own.objectives.path else None)
    if path is not None:
        ObjectiveFiles(path, objectives, read_objectives, rewrites=rewrites).load()
    trust, _ = open_trust(own.trust, os.environ)
    return Director(
        parsers=Parsers(loaded.parsers),
        scheduler=loaded.scheduler(pool.ledger),
        gate=Gate(loaded.detector.plugin, pool.ledger),
        store=pool.store,
        ledger=pool.ledger,
        outliers=None,
        models=pool.models,
        metrics=Metrics(),
        tracer=Tracer(),
        decisions=DecisionLog(),
        settings=Settings(),
        trust=trust,
        objectives=objectives,
        rewrites=rewrites,
        clock=time.monotonic,
        seed=seed,
    )


def _json(director: Director, head: RequestHead, verdict: Route | Answer, endpoints: int) -> dict[str, Any]:
    if isinstance(verdict, Answer):
        return {"refused": {"status": verdict.status, **json.loads(verdict.body)["error"]}}
    decision = director.decisions.find(head.request_id)
    assert decision is not None
    return {
        "destination": verdict.destination,
        "set_headers": dict(verdict.set_headers),
        "decision": describe(decision, endpoints),
    }


def _say(director: Director, head: RequestHead, verdict: Route | Answer, top: int) -> None:
    if isinstance(verdict, Answer):
        error = json.loads(verdict.body)["error"]
        click.echo(f"refused   {verdict.status} {error['code']}: {error['message']}")
        return
    decision = director.decisions.find(head.request_id)
    assert decision is not None
    click.echo(table(decision, top), nl=False)
    for name, value in verdict.set_headers:
        click.echo(f"header    {name}: {value}")
