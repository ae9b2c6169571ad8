"""Every plugin type there is, in one table: what is built in, and what installed packages publish.

A package publishes an entry point of group `epp.plugins` whose name is the type and whose object is a
PluginType. It is imported only when a configuration (or `epp plugins`) names it, so that a broken package
harms nobody who does not use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from epp import plugins
from epp.admission import attained, burst, eviction, fairness, order, saturation, usage, vtc
from epp.config import data
from epp.parsing.parser import Parser
from epp.parsing.select import PARSERS
from epp.scheduling.contract import BuildContext, NoParameters, PluginType

GROUP = "epp.plugins"
BUILT_IN = "built in"


class Kind(StrEnum):
    """Which part of a configuration may refer to a plugin."""

    SCHEDULING = "scheduling"
    SATURATION = "saturation detector"
    FAIRNESS = "fairness policy"
    ORDER = "ordering policy"
    USAGE = "usage limit policy"
    EVICTION_FILTER = "eviction filter"
    EVICTION_ORDER = "eviction order"
    PARSER = "parser"
    SOURCE = "data source"
    EXTRACTOR = "extractor"
    DISCOVERY = "discovery"


_ADMISSION: tuple[tuple[Kind, Iterable[PluginType[Any]]], ...] = (
    (Kind.SATURATION, (*saturation.PLUGINS, *burst.PLUGINS)),
    (Kind.FAIRNESS, (*fairness.PLUGINS, *attained.PLUGINS, *vtc.PLUGINS)),
    (Kind.ORDER, order.PLUGINS),
    (Kind.USAGE, usage.PLUGINS),
    (Kind.EVICTION_FILTER, [row for row in eviction.PLUGINS if hasattr(row.build, "evictable")]),
    (Kind.EVICTION_ORDER, [row for row in eviction.PLUGINS if hasattr(row.build, "eviction_key")]),
)


@dataclass(frozen=True, slots=True)
class Row:
    type: PluginType[Any]
    kind: Kind
    origin: str = BUILT_IN
    """Name of the package that published it."""

    @property
    def name(self) -> str:
        return self.type.type_name


class BrokenPackageError(Exception):
    """A published plugin cannot be used; the text names the package and what is wrong."""


class Catalog:
    """Built-in rows win over published ones of the same name."""

    def __init__(self, rows: Iterable[Row], published: Iterable[EntryPoint] = ()) -> None:
        self._rows = {row.name: row for row in rows}
        self._published: dict[str, list[EntryPoint]] = {}
        for point in published:
            self._published.setdefault(point.name, []).append(point)

    def __iter__(self) -> Iterator[str]:
        """All type names, built-in ones first."""
        yield from self._rows
        yield from (name for name in self._published if name not in self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self._published

    def __getitem__(self, name: str) -> Row:
        """Raises KeyError for an unknown type and BrokenPackageError for one that cannot be used."""
        row = self._rows.get(name)
        return row if row is not None else _load(self._published[name])

    def shadowed(self) -> Mapping[str, str]:
        """Published types that are never used because a built-in one has their name, with their package."""
        return {name: _package(points[0]) for name, points in self._published.items() if name in self._rows}


def catalog() -> Catalog:
    """The table of this installation. Looks at the installed packages anew each time."""
    return Catalog(_built_in(), entry_points(group=GROUP))


def _built_in() -> Iterator[Row]:
    for row in plugins.PLUGINS:
        yield Row(row, Kind.SCHEDULING)
    for kind, rows in _ADMISSION:
        for row in rows:
            yield Row(row, kind)
    for name, make in PARSERS.items():
        yield Row(PluginType(name, NoParameters, _parser_of(make), _paths(make())), Kind.PARSER)
    kinds = {data.FILE_DISCOVERY: Kind.DISCOVERY}
    for row in data.PLUGINS:
        extractor = Kind.EXTRACTOR if row.type_name in data.EXTRACTS else Kind.SOURCE
        yield Row(row, kinds.get(row.type_name, extractor))


def _parser_of(make: Any) -> Any:
    def build(parameters: NoParameters, context: BuildContext) -> Parser:
        parser: Parser = make()
        return parser

    return build


def _paths(parser: Parser) -> str:
    claims = ", ".join(suffix.lstrip("/") for suffix in parser.claims)
    return f"reads {claims}" if claims else "takes every path that no other parser claims; reads no body"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value.partition(":")[0]


def _load(points: list[EntryPoint]) -> Row:
    point, package = points[0], _package(points[0])
    if len({_package(other) for other in points}) > 1:
        names = ", ".join(sorted({_package(other) for other in points}))
        raise BrokenPackageError(f"several packages publish it: {names}; uninstall all but one")
    try:
        loaded = point.load()
    except Exception as error:  # third-party code may fail in any way
        raise BrokenPackageError(
            f"package '{package}' ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, PluginType):
        raise BrokenPackageError(
            f"package '{package}' publishes a {type(loaded).__name__} as {point.value}, not a PluginType"
        )
    if loaded.type_name != point.name:
        raise BrokenPackageError(
            f"package '{package}' publishes type '{loaded.type_name}' under the name '{point.name}'"
        )
    if not (isinstance(loaded.parameters, type) and issubclass(loaded.parameters, msgspec.Struct)):
        raise BrokenPackageError(f"package '{package}': parameters of '{point.name}' are no msgspec Struct")
    return Row(loaded, Kind.SCHEDULING, package)
