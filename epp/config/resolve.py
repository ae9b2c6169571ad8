"""Plugin entries of a configuration -> instances: type looked up, parameters decoded, needs added."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from epp.config.catalog import BrokenPackageError, Catalog, Kind, Row
from epp.config.decode import BAD, decode, fields_of
from epp.config.not_built import NOT_BUILT, refusal
from epp.config.problems import Path, Report, nearest
from epp.config.schema import PluginSpec

ALPHA_FLAG = "--allow-experimental-plugins"


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """A named plugin of the configuration, not built yet."""

    name: str
    row: Row
    parameters: Any
    """A value of row.type.parameters."""
    path: Path
    """Where it stands; empty for one that was added by default."""

    @property
    def type_name(self) -> str:
        return self.row.name


@dataclass(slots=True)
class Instances:
    """All plugins by name, in the order of the configuration; what was added comes last."""

    catalog: Catalog
    report: Report
    allow_experimental: bool
    known: dict[str, Instance] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    """Names of all entries, also of those with mistakes: referring to them is no further mistake."""
    taken: set[str] = field(default_factory=set)
    """Names that something refers to."""

    def declare(self, specs: list[PluginSpec]) -> None:
        for i, spec in enumerate(specs):
            path: Path = ("plugins", i)
            name = spec.name or spec.type
            if name in self.named:
                self.report.error((*path, "name" if spec.name else "type"), f"duplicate plugin name '{name}'")
                continue
            if name:
                self.named.add(name)
            row = self._row(spec.type, path)
            if row is not None:
                before = len(self.report.problems)
                at = (*path, "parameters")
                parameters = decode(spec.parameters, row.type.parameters, at, self.report)
                if parameters is not BAD and len(self.report.problems) == before:
                    self.known[name] = Instance(name, row, parameters, path)

    def _row(self, type_name: str, path: Path) -> Row | None:
        at = (*path, "type")
        if not type_name:
            if not self.report.blames(at):
                self.report.error(path, "'type' is required")
            return None
        if type_name not in self.catalog:
            if type_name in NOT_BUILT:
                self.report.error(at, refusal(f"plugin type '{type_name}'", NOT_BUILT[type_name]))
            else:
                hint = nearest(type_name, [*self.catalog, *NOT_BUILT])
                self.report.error(at, f"unknown plugin type '{type_name}'{hint}")
            return None
        try:
            row = self.catalog[type_name]
        except BrokenPackageError as error:
            self.report.error(at, f"plugin type '{type_name}': {error}")
            return None
        if row.type.alpha and not self.allow_experimental:
            self.report.error(at, f"plugin type '{type_name}' is experimental; {ALPHA_FLAG} allows it")
            return None
        if row.type.deprecated_for:
            self.report.notice(at, f"'{type_name}' is deprecated; use '{row.type.deprecated_for}'")
        return row

    def add(self, type_name: str) -> Instance | None:
        """The first instance of this type, else a new one with defaults, named like its type."""
        for instance in self.known.values():
            if instance.type_name == type_name:
                return instance
        if type_name not in self.named:
            return self._create(type_name, ())
        taken = self.known.get(type_name)
        if taken is not None:  # else its entry has a mistake that was reported
            self.report.error(
                taken.path, f"the name '{type_name}' is needed for the default plugin of that type"
            )
        return None

    def _create(self, type_name: str, path: Path) -> Instance | None:
        """A new instance with defaults; `path` is what wants it."""
        try:
            row = self.catalog[type_name]
        except BrokenPackageError as error:
            self.report.error(path, f"plugin type '{type_name}': {error}")
            return None
        parameters = decode({}, row.type.parameters, (), Report(""))
        if parameters is BAD:
            self.report.error(
                path, f"'{type_name}' must be listed under 'plugins': it has required parameters"
            )
            return None
        self.known[type_name] = added = Instance(type_name, row, parameters, ())
        self.named.add(type_name)
        return added

    def add_needs(self) -> None:
        """Create the producers that plugins need or name and the configuration does not list."""
        waiting = list(self.known.values())
        for instance in waiting:  # grows while it runs: a producer may need another
            known = set(self.known)
            for type_name in instance.row.type.needs:
                if type_name in self.catalog:
                    self.add(type_name)
                else:
                    words = f"plugin type '{instance.type_name}' needs '{type_name}', which is not there"
                    self.report.error((*instance.path, "type"), words)
            for parameter, name in references(instance):
                if name not in self.named:
                    self._add_named(name, (*instance.path, "parameters", parameter))
            waiting += [self.known[name] for name in self.known if name not in known]

    def _add_named(self, name: str, path: Path) -> None:
        """A producer may be named by its type without being listed: then it runs with defaults."""
        if name in self.catalog:
            self._create(name, path)
        elif name in NOT_BUILT:
            self.report.error(path, refusal(f"plugin type '{name}'", NOT_BUILT[name]))
        else:
            self.report.error(path, f"no plugin is named '{name}'{nearest(name, self.named)}")

    def refer(self, name: str, path: Path, *kinds: Kind) -> Instance | None:
        """The instance that a `pluginRef` at `path` means, if it is of one of these kinds."""
        at = (*path, "pluginRef")
        if not name:
            if not self.report.blames(at):
                self.report.error(path, "'pluginRef' is required")
            return None
        return self.refer_at(name, at, *kinds)

    def refer_at(self, name: str, at: Path, *kinds: Kind, default: str = "") -> Instance | None:
        """The instance that the name at `at` means. The type `default` need not be listed to be named."""
        self.taken.add(name)
        if name == default and name not in self.named:
            return self._create(name, at)
        instance = self.known.get(name)
        if instance is None:
            if name not in self.named:
                hint = "; list it under 'plugins'" if name in self.catalog else nearest(name, self.named)
                self.report.error(at, f"no plugin is named '{name}'{hint}")
            return None
        if instance.row.kind not in kinds:
            self.report.error(at, f"'{name}' is of kind {instance.row.kind}, not {kinds[0]}")
            return None
        return instance


def references(instance: Instance) -> list[tuple[str, str]]:
    """(field, name) of plugins in its parameters: fields called `...ProducerName` or `...PluginName`."""
    found = []
    parameters: type[msgspec.Struct] = type(instance.parameters)
    for spec in fields_of(parameters):
        if spec.encode_name.lower().endswith(("producername", "pluginname")):
            value = getattr(instance.parameters, spec.name)
            if isinstance(value, str) and value:
                found.append((spec.encode_name, value))
    return found
