"""What the pages promise is there: links and their anchors, commands, flags, metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from epp.bodyrouting import metrics as bodyrouting
from epp.cli.commands import COMMANDS, epp
from epp.telemetry.table import STREAM_METRICS, TABLE, Kind

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    {
        ROOT / "README.md",
        ROOT / "native/README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    }
)
OTHERS_FLAGS = {
    *("--base-id", "--entrypoint", "--enable-metrics"),
    *("--all-pods", "--previous", "--reset-then-reuse-values", "--reuse-values"),
}
"""Envoy's, docker's, SGLang's, kubectl's and Helm's, named in a sentence."""
NO_METRICS = {"epp_models"}
"""Clusters in examples of Envoy configurations."""

_FENCE = re.compile(r"^( *)(```+)([^\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#* *$", re.MULTILINE)
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_OURS = re.compile(
    r"(?:^|[|;&(]|\$|--) *(?:[A-Z_]+=\S* +)*(?:\.venv/bin/)?epp (?= *[a-z-])([^|;&#)\n]*)", re.MULTILINE
)
_METRIC = re.compile(r"(?<![\w./-])(\^?)((?:llm_d_epp|epp|bbr)_[a-z0-9_]+)(?![\w*./]|\.\.)")

_PATH = re.compile(r"(?<![\w./-])(?:deploy|docs|bench|epp|tests|native|examples)/[\w./-]+(?![\w*{<:])")


def _fences(text: str) -> Iterator[str]:
    """Blocks of code, their lines joined where a shell would."""
    for found in _FENCE.finditer(text):
        yield re.sub(r"\\\n\s*", " ", found[4])


def _spans(text: str) -> Iterator[str]:
    """Code within sentences."""
    for found in _CODE.finditer(_FENCE.sub("", text)):
        yield re.sub(r"\s+", " ", found[2]).strip()


@cache
def _anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them of headings."""
    anchors: dict[str, int] = {}
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text())):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = anchors[slug] = anchors.get(slug, -1) + 1
        found.add(f"{slug}-{count}" if count else slug)
    return frozenset(found)


@cache
def _flags(command: str) -> frozenset[str]:
    """Of one command; of all of them for ""."""
    if not command:
        return frozenset(flag for name in COMMANDS for flag in _flags(name)) | {"--version", "--help"}
    made = epp.get_command(click.Context(epp), command)
    assert made is not None, command
    named = {flag for one in made.params for flag in (*one.opts, *one.secondary_opts)}
    return frozenset(named) | {"--help"}


@cache
def _others() -> frozenset[str]:
    """Flags of benchmarks, which are named in sentences beside ours."""
    texts = (path.read_text() for path in (ROOT / "bench").rglob("*.py"))
    return frozenset(OTHERS_FLAGS).union(*(re.findall(r'"(--[a-z-]+)"', text) for text in texts))


@cache
def _metrics() -> frozenset[str]:
    names: set[str] = set(STREAM_METRICS) | set(bodyrouting.TABLE)
    for one in TABLE.values():
        names |= {one.name, *(twin.name for twin in one.twins)}
        if one.kind is Kind.HISTOGRAM:
            names |= {one.name + suffix for suffix in ("_bucket", "_sum", "_count")}
    return frozenset(names)


def _links(page: Path, text: str) -> Iterator[str]:
    for target in _LINK.findall(_CODE.sub("", _FENCE.sub("", text))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        if not aim.exists():
            yield f"link to {target}, which is not there"
        elif anchor and anchor not in _anchors(aim):
            yield f"link to {target}: the page has no such heading"


def _commands(text: str) -> Iterator[str]:
    """Calls of epp in code, with their flags; flags in sentences."""
    for code in (*_fences(text), *_spans(text)):
        for call in _OURS.findall(code):
            name, *_ = call.split()
            if name.startswith("-"):
                known = _flags("")
            elif name in COMMANDS:
                known = _flags(name)
            else:
                yield f"no command `epp {name}`"
                continue
            for flag in _FLAG.findall(call):
                if flag not in known:
                    yield f"`epp {name}` has no {flag}"
    for span in _spans(text):
        flag = _FLAG.match(span)
        if flag and flag[0] not in _flags("") | _others():
            yield f"no command has {flag[0]}"


def _series(text: str) -> Iterator[str]:
    for code in (*_fences(text), *_spans(text)):
        for begins, name in _METRIC.findall(code):  # `grep ^name` asks for all that begin like it
            there = any(one.startswith(name) for one in _metrics()) if begins else name in _metrics()
            if not there and name not in NO_METRICS:
                yield f"no metric {name}"


def _files(text: str) -> Iterator[str]:
    """What code names by its path from the root."""
    for code in (*_fences(text), *_spans(text)):
        for path in _PATH.findall(code):
            if not (ROOT / path.rstrip(".")).exists():
                yield f"no file {path}"


def _faults(page: Path) -> list[str]:
    text = page.read_text()
    return [*_links(page, text), *_commands(text), *_series(text), *_files(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    assert _faults(page) == []


def test_what_is_wrong_in_a_page_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `page`: of\n[a](#a-page-of) [b](gone.md) [c](#nowhere) `--no-such-flag` `epp_nothing_total`\n"
        "`deploy/nothing`\n"
        "```sh\nepp serv --pool-name a\nkubectl exec p -- epp doctor \\\n  --pool-nmae a | grep --colour x\n"
        "kubectl apply -k deploy/none\n```\n"
    )
    assert _faults(page) == [
        "link to gone.md, which is not there",
        "link to #nowhere: the page has no such heading",
        "no command `epp serv`",
        "`epp doctor` has no --pool-nmae",
        "no command has --no-such-flag",
        "no metric epp_nothing_total",
        "no file deploy/none",
        "no file deploy/nothing",
    ]
