"""Objects as a cluster holds them, read strictly: one as the API gives it, or all that stand in files.

In files they are as they are applied or as kubectl prints them (lists, status and all).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from epp.config.decode import BAD, decode
from epp.config.problems import ConfigError, Path, Problem, Report, choices, nearest
from epp.config.text import parse_documents

API_VERSIONS = ("llm-d.ai/v1alpha2", "inference.networking.x-k8s.io/v1alpha2")
"""Where both have an object of one name, the first counts."""
POOL_KIND = "InferencePool"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Block(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class Metadata(Block, frozen=True):
    """All that Kubernetes knows of an object."""

    name: str = ""
    namespace: str = ""
    labels: Any = None
    annotations: dict[str, Any] | None = None
    generate_name: Any = None
    creation_timestamp: Any = None
    deletion_timestamp: Any = None
    deletion_grace_period_seconds: Any = None
    finalizers: Any = None
    generation: Any = None
    managed_fields: Any = None
    owner_references: Any = None
    resource_version: Any = None
    self_link: Any = None
    uid: Any = None


class PoolRef(Block, frozen=True):
    """The pool that an object is for, in its own namespace."""

    name: str
    kind: str = POOL_KIND
    group: str = ""
    """Empty: that of InferencePool v1."""


class Spec(Block, frozen=True):
    pool_ref: PoolRef


class Document(Block, frozen=True):
    kind: str
    api_version: str
    metadata: Metadata
    status: Any = None


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How objects of one kind are read."""

    name: str
    """As `kind` has it."""
    word: str
    """As complaints call one."""
    document: type[Document]
    """Has a `spec`, which is a Spec."""
    build: Callable[[Any, Path, Report], T]
    """What a well-formed document says; what is wrong with it, it reports."""


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    item: T
    pool: PoolRef
    version: str
    report: Report
    at: Path


def read_object(kind: Kind[T], value: Any, source: str) -> Found[T]:
    """`source` is what complaints call the object. Raises ConfigError with all of them."""
    report = Report(source)
    found = _found(kind, value, (), report)
    report.raise_any()
    assert found is not None
    return found


@dataclass(frozen=True, slots=True)
class FilesRead:
    items: Mapping[str, Sequence[Any]]
    """By kind; only to be used where there are no problems."""
    notices: tuple[str, ...]
    """What was passed by, and why."""
    problems: tuple[str, ...]
    """Every mistake of all files, in their order."""


def read_files(files: Iterable[tuple[str, bytes]], kinds: Sequence[Kind[Any]], pool: str = "") -> FilesRead:
    """What `files` (name and content) have for `pool`; for every pool when it has no name."""
    problems: list[Problem] = []
    reports: list[Report] = []
    found: dict[str, list[Found[Any]]] = {kind.name: [] for kind in kinds}
    for source, data in files:
        try:
            documents = parse_documents(data.decode("utf-8-sig"), source)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            problems.append(Problem(f"{source}:{line}", None, (), "not UTF-8"))
            continue
        except ConfigError as error:
            problems += error.problems
            continue
        for value, report in documents:
            reports.append(report)
            for item, at in _items(value, kinds):
                kind = _kind_of(item, kinds, at, report)
                one = None if kind is None else _found(kind, item, at, report)
                if kind is not None and one is not None and _is_for(pool, one, kind):
                    found[kind.name].append(one)
    read = {kind.name: _by_name(found[kind.name], kind) for kind in kinds}
    for report in reports:
        problems += report.problems
    notices = tuple(str(notice) for report in reports for notice in report.notices)
    return FilesRead(read, notices, tuple(map(str, problems)))


def _items(value: Any, kinds: Sequence[Kind[Any]]) -> Iterator[tuple[Any, Path]]:
    """The objects of a document: itself, or what it lists."""
    kind = value.get("kind") if isinstance(value, dict) else None
    items = value.get("items") if isinstance(value, dict) else None
    lists = ("List", *(f"{kind.name}List" for kind in kinds))
    if isinstance(kind, str) and kind in lists and isinstance(items, list):
        for i, item in enumerate(items):
            yield item, ("items", i)
    elif value is not None:
        yield value, ()


def _kind_of(value: Any, kinds: Sequence[Kind[Any]], at: Path, report: Report) -> Kind[Any] | None:
    """None, and the reason in the report, for what is not read here."""
    if not isinstance(value, dict):
        report.error(at, "expected a mapping with apiVersion, kind, metadata and spec")
        return None
    known = [kind.name for kind in kinds]
    said = value.get("kind")
    if not isinstance(said, str):
        report.error(at, f"'kind' is required; it is {choices(known)}")
        return None
    for kind in kinds:
        if kind.name == said:
            return kind
    near = get_close_matches(said, known, 1, 0.85)
    if near:
        report.error((*at, "kind"), f"unknown kind '{said}'; did you mean '{near[0]}'?")
    else:
        report.notice((*at, "kind"), f"ignored: '{said}' is not read here, only {choices(known)}")
    return None


def _found(kind: Kind[T], value: Any, at: Path, report: Report) -> Found[T] | None:
    """None for what is wrong."""
    before = len(report.problems)
    document = decode(value, kind.document, at, report)
    if document is BAD:
        return None
    spec: Spec = document.spec
    _check(document, spec.pool_ref, at, report)
    if len(report.problems) > before:
        return None
    item = kind.build(document, at, report)
    if len(report.problems) > before:
        return None
    return Found(item, spec.pool_ref, document.api_version, report, at)


def _check(document: Document, ref: PoolRef, at: Path, report: Report) -> None:
    version, name = document.api_version, document.metadata.name
    if version not in API_VERSIONS:
        words = f"unknown apiVersion '{version}'; it is {choices(API_VERSIONS)}"
        report.error((*at, "apiVersion"), words + nearest(version, API_VERSIONS))
    if not name:
        report.error((*at, "metadata"), "'name' is required")
    elif not _NAME.fullmatch(name):
        words = f"'{name}' is not a name: lower-case letters, digits, '-' and '.', at most 253 characters"
        report.error((*at, "metadata", "name"), words)
    if ref.kind != POOL_KIND:
        report.error((*at, "spec", "poolRef", "kind"), f"'{ref.kind}' is not '{POOL_KIND}'")
    if not ref.name:
        report.error((*at, "spec", "poolRef", "name"), "is empty")


def _is_for(pool: str, one: Found[Any], kind: Kind[Any]) -> bool:
    wanted = one.pool.name
    if not pool or wanted == pool:
        return True
    words = f"ignored: {kind.word} '{one.item.name}' belongs to the pool '{wanted}', not to '{pool}'"
    one.report.notice((*one.at, "spec", "poolRef", "name"), words)
    return False


def _by_name(found: Sequence[Found[T]], kind: Kind[T]) -> list[T]:
    """One for each name, in the order of the files."""
    held: dict[str, Found[T]] = {}
    for one in found:
        name, at = one.item.name, (*one.at, "metadata", "name")
        before = held.get(name)
        if before is None:
            held[name] = one
        elif before.version == one.version:
            first = Problem(before.report.source, before.report.marks.get((*before.at, *at[-2:])), (), "")
            place = str(first).removesuffix(": ")
            one.report.error(at, f"{kind.word} '{name}' stands already at {place}")
        else:
            late = one if one.version == API_VERSIONS[1] else before
            words = f"ignored: '{name}' stands also in the group of {API_VERSIONS[0]}, which counts"
            late.report.notice((*late.at, "metadata", "name"), words)
            held[name] = before if late is one else one
    return [one.item for one in held.values()]
