"""YAML documents of `kind: InferenceObjective` -> objectives by name, or every mistake with its place.

The documents are those that a cluster holds, as they are applied or as kubectl prints them (lists, status and
all). What else stands in the same files is passed by with a notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from epp.config.decode import BAD, decode
from epp.config.problems import ConfigError, Path, Problem, Report, choices, nearest
from epp.config.text import parse_documents
from epp.datalayer.objectives import ObjectivesError, ObjectivesRead
from epp.domain.objective import Objective

KIND = "InferenceObjective"
API_VERSIONS = ("llm-d.ai/v1alpha2", "inference.networking.x-k8s.io/v1alpha2")
"""Where both have an object of one name, the first counts."""
_POOL_KIND = "InferencePool"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class _Block(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class _Metadata(_Block, frozen=True):
    """All that Kubernetes knows of an object; only the name matters here."""

    name: str = ""
    namespace: str = ""
    labels: Any = None
    annotations: Any = None
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


class _PoolRef(_Block, frozen=True):
    name: str
    kind: str = _POOL_KIND
    group: str = ""


class _Spec(_Block, frozen=True):
    pool_ref: _PoolRef
    priority: Int32 | None = None


class _Document(_Block, frozen=True):
    kind: str
    api_version: str
    metadata: _Metadata
    spec: _Spec
    status: Any = None


@dataclass(frozen=True, slots=True)
class _Found:
    objective: Objective
    version: str
    report: Report
    at: Path


def read_objectives(files: Iterable[tuple[str, bytes]], pool: str = "") -> ObjectivesRead:
    """Those of `files` (name and content) that belong to `pool`; of every pool when it has no name.

    Raises ObjectivesError with every mistake of all files.
    """
    problems: list[Problem] = []
    reports: list[Report] = []
    found: list[_Found] = []
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
            for item, at in _items(value):
                one = _objective(item, at, report, pool)
                if one is not None:
                    found.append(one)
    by_name = _by_name(found)
    for report in reports:
        problems += report.problems
    if problems:
        raise ObjectivesError([str(problem) for problem in problems])
    return ObjectivesRead(by_name, tuple(str(notice) for report in reports for notice in report.notices))


def _items(value: Any) -> Iterator[tuple[Any, Path]]:
    """The objects of a document: itself, or what it lists."""
    kind = value.get("kind") if isinstance(value, dict) else None
    items = value.get("items") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in ("List", f"{KIND}List") and isinstance(items, list):
        for i, item in enumerate(items):
            yield item, ("items", i)
    elif value is not None:
        yield value, ()


def _objective(value: Any, at: Path, report: Report, pool: str) -> _Found | None:
    """None for other kinds, other pools, and what is wrong."""
    if not isinstance(value, dict):
        report.error(at, "expected a mapping with apiVersion, kind, metadata and spec")
        return None
    kind = value.get("kind")
    if not isinstance(kind, str):
        report.error(at, f"'kind' is required; of objectives it is '{KIND}'")
        return None
    if kind != KIND:
        near = get_close_matches(kind, [KIND], 1, 0.85)
        if near:
            report.error((*at, "kind"), f"unknown kind '{kind}'; did you mean '{KIND}'?")
        else:
            report.notice((*at, "kind"), f"ignored: '{kind}' is not read here, only '{KIND}'")
        return None
    before = len(report.problems)
    document = decode(value, _Document, at, report)
    if document is BAD:
        return None
    _check(document, at, report)
    if len(report.problems) > before:
        return None
    wanted = document.spec.pool_ref.name
    if pool and wanted != pool:
        name = document.metadata.name
        words = f"ignored: objective '{name}' belongs to the pool '{wanted}', not to '{pool}'"
        report.notice((*at, "spec", "poolRef", "name"), words)
        return None
    objective = Objective(document.metadata.name, document.spec.priority or 0)
    return _Found(objective, document.api_version, report, (*at, "metadata", "name"))


def _check(document: _Document, at: Path, report: Report) -> None:
    version, name, ref = document.api_version, document.metadata.name, document.spec.pool_ref
    if version not in API_VERSIONS:
        words = f"unknown apiVersion '{version}'; it is {choices(API_VERSIONS)}"
        report.error((*at, "apiVersion"), words + nearest(version, API_VERSIONS))
    if not name:
        report.error((*at, "metadata"), "'name' is required")
    elif not _NAME.fullmatch(name):
        words = f"'{name}' is not a name: lower-case letters, digits, '-' and '.', at most 253 characters"
        report.error((*at, "metadata", "name"), words)
    if ref.kind != _POOL_KIND:
        report.error((*at, "spec", "poolRef", "kind"), f"'{ref.kind}' is not '{_POOL_KIND}'")
    if not ref.name:
        report.error((*at, "spec", "poolRef", "name"), "is empty")


def _by_name(found: Sequence[_Found]) -> Mapping[str, Objective]:
    held: dict[str, _Found] = {}
    for one in found:
        name = one.objective.name
        before = held.get(name)
        if before is None:
            held[name] = one
        elif before.version == one.version:
            first = Problem(before.report.source, before.report.marks.get(before.at), (), "")
            place = str(first).removesuffix(": ")
            one.report.error(one.at, f"objective '{name}' stands already at {place}")
        else:
            late = one if one.version == API_VERSIONS[1] else before
            words = f"ignored: '{name}' stands also in the group of {API_VERSIONS[0]}, which counts"
            late.report.notice(late.at, words)
            held[name] = before if late is one else one
    return {name: one.objective for name, one in held.items()}
