"""The options of `epp load`, in the groups in which its help shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from epp.load import arrivals, lengths
from epp.load.calls import Mix
from epp.load.client import ENDPOINT_HEADERS

WORKLOADS = ("random", "shared-prefix", "conversation", "trace")


class _Parsed(click.ParamType[Any]):
    """An option whose text a function turns into a value; its ValueError is the user's answer."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def header(text: str) -> tuple[str, str]:
    """`NAME:VALUE`, the name in lower case. Raises ValueError."""
    name, sign, value = text.partition(":")
    name = name.strip().lower()
    if not sign or not name or not name.isascii() or any(c.isspace() or not c.isprintable() for c in name):
        raise ValueError(f"{text!r}: write NAME:VALUE")
    if any(c in value for c in "\r\n\0"):
        raise ValueError(f"{name}: a header value has no line breaks")
    return name, value.strip()


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"not a JSON object: {error}") from error


_LENGTH = _Parsed("LENGTH", lengths.parse)
_MIX = _Parsed("NAME=WEIGHT,...", Mix.parse)
_POSITIVE = click.FloatRange(min=0, min_open=True, max=arrivals.MAX_RATE)
_COUNT = click.IntRange(min=1)
_TOKENS = click.IntRange(min=1, max=lengths.MAX_TOKENS)
_INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUTPUT = click.Path(dir_okay=False, path_type=Path)


def _option(name: str, help: str, **more: Any) -> click.Option:
    more.setdefault("show_default", "default" in more and not more.get("is_flag"))
    return click.Option([*name.split()], help=help, **more)


GROUPS: tuple[tuple[str, tuple[click.Option, ...]], ...] = (
    (
        "What is asked",
        (
            _option(
                "--model models",
                "Model, or a mix of models and LoRA adapters. Default: the first that the target lists.",
                type=_MIX,
            ),
            _option(
                "--workload",
                "Kind of prompts; the options of each stand below.",
                type=click.Choice(WORKLOADS),
                default="random",
            ),
            _option("--endpoint", "API.", type=click.Choice(["chat", "completions"]), default="chat"),
            _option(
                "--stream/--no-stream",
                "Streamed answers; without them there is no TTFT.",
                default=True,
            ),
            _option(
                "--ignore-eos/--no-ignore-eos",
                "Ask for exactly the answer length (vLLM, SGLang).",
                default=True,
            ),
            _option(
                "--objective objectives",
                "Mix of objectives (priorities), as header x-llm-d-inference-objective.",
                type=_MIX,
            ),
            _option(
                "--fairness-id flows",
                "Mix of fairness ids, as header x-llm-d-inference-fairness-id.",
                type=_MIX,
            ),
            _option(
                "-H --header headers",
                "Header of every request; may be repeated.",
                type=_Parsed("NAME:VALUE", header),
                multiple=True,
            ),
            _option("--api-key", "Sent as a bearer token.", envvar="OPENAI_API_KEY", show_envvar=True),
            _option(
                "--extra-body",
                "Fields for every body, as a JSON object.",
                type=_Parsed("JSON", _object),
                default="{}",
            ),
            _option("--seed", "Of all text, lengths and gaps.", type=int, default=0),
        ),
    ),
    (
        "When",
        (
            _option(
                "--request-rate",
                "Sessions begun a second; a session is one request, or one chat.",
                type=_POSITIVE,
                default=1.0,
            ),
            _option(
                "--burstiness",
                "Shape of the gaps: 1 is Poisson, less comes in bursts, more is more even.",
                type=click.FloatRange(min=0.01, max=1000),
                default=1.0,
            ),
            _option(
                "--arrivals arrivals_text",
                f"Instead of a rate: {arrivals.SYNTAX}.",
                metavar="WORD",
            ),
            _option(
                "--requests --num-prompts",
                "Stop after so many requests, later turns included. "
                "Default: 100 unless --duration or a trace bounds the run.",
                type=_COUNT,
            ),
            _option(
                "--duration",
                "Send nothing after so many seconds; what is open is finished.",
                type=_POSITIVE,
            ),
            _option(
                "--max-concurrency",
                "Close the loop: never more requests open than this. Waiting shows as late sending.",
                type=_COUNT,
            ),
            _option(
                "--max-open",
                "Open requests beyond which a due one counts as an error instead of being sent.",
                type=_COUNT,
                default=10_000,
            ),
            _option("--timeout", "Seconds for one whole answer.", type=_POSITIVE, default=600.0),
        ),
    ),
    (
        "Workloads random and shared-prefix",
        (
            _option(
                "--input-tokens",
                f"Length of a prompt, or of a group's question: {lengths.SYNTAX}.",
                type=_LENGTH,
                default="512",
            ),
            _option("--output-tokens", "Length of an answer, likewise.", type=_LENGTH, default="128"),
            _option(
                "--shared-tokens",
                "random: length of a prefix that all prompts share.",
                type=click.IntRange(min=0, max=lengths.MAX_TOKENS),
                default=0,
            ),
            _option("--groups", "shared-prefix: system prompts.", type=_COUNT, default=8),
            _option(
                "--prompts-per-group",
                "shared-prefix: different questions a group; 0: every question is new.",
                type=click.IntRange(min=0),
                default=0,
            ),
            _option(
                "--system-tokens",
                "shared-prefix: length of a system prompt.",
                type=_TOKENS,
                default=2048,
            ),
        ),
    ),
    (
        "Workload conversation: chats of several turns, each with the real answers before it",
        (
            _option("--length-scale", "Factor on all lengths.", type=_POSITIVE, default=1.0),
            _option(
                "--pause-scale",
                "Factor on the pauses between turns (median 126 s).",
                type=_POSITIVE,
                default=1.0,
            ),
            _option("--systems", "Different system prompts in use.", type=_COUNT, default=1),
            _option("--min-turns", "Turns that every chat has.", type=_COUNT, default=1),
            _option("--max-turns", "Turns that no chat passes.", type=_COUNT, default=43),
            _option(
                "--max-context",
                "A chat ends before its prompt passes so many tokens.",
                type=click.IntRange(min=16),
                default=120_000,
            ),
        ),
    ),
    (
        "Workload trace: a recording of block hashes",
        (
            _option(
                "--trace",
                "JSON lines of timestamp (ms), input_length, output_length, hash_ids.",
                type=_INPUT,
            ),
            _option("--speed", "How many times as fast as recorded.", type=_POSITIVE, default=1.0),
        ),
    ),
    (
        "Reports",
        (
            _option(
                "--goodput",
                "Limits that a good request meets, such as ttft:500 tpot:50 e2el:2000.",
                multiple=True,
                metavar="METRIC:MS...",
            ),
            _option("--output", "Write the result as JSON.", type=_OUTPUT),
            _option("--plot", "Write a picture, .svg or .html: TTFT over time and shares.", type=_OUTPUT),
            _option(
                "--compare compared",
                "Print two result files side by side instead of playing load; --plot draws both.",
                nargs=2,
                type=_INPUT,
            ),
            _option("--fail-on-error", "Exit with status 1 if any request failed.", is_flag=True),
            _option(
                "--endpoint-header endpoint_headers",
                "Answer header that names who answered; the first present counts. "
                f"Default: {', '.join(ENDPOINT_HEADERS)}.",
                multiple=True,
                default=ENDPOINT_HEADERS,
                show_default=False,
            ),
            _option("--progress/--no-progress", "Progress on standard error.", default=True),
            _option("--insecure", "Do not verify the target's certificate.", is_flag=True),
        ),
    ),
)


class LoadCommand(click.Command):
    """Shows its options in groups, and lets one --goodput take several limits."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, options in GROUPS:
            rows = [row for option in options if (row := option.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread_goodput(args))


def spread_goodput(args: list[str]) -> list[str]:
    """`--goodput a:1 b:2`, as vLLM's benchmark takes it, to one option a limit."""
    spread: list[str] = []
    taking = 0
    for word in args:
        if word == "--goodput":
            taking = 1
        elif taking == 1:
            taking = 2
        elif taking == 2 and ":" in word and "/" not in word and not word.startswith("-"):
            spread.append("--goodput")
        else:
            taking = 0
        spread.append(word)
    return spread
