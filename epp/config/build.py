"""Instances -> built plugins, each after the plugins that it needs or names.

On a reload a plugin is taken over as it is, with its state, when nothing that it was made of has changed: its
type and parameters, the plugins that it needs or names, and those that its constructor asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from epp.config.catalog import BUILT_IN
from epp.config.decode import FieldError
from epp.config.problems import nearest
from epp.config.resolve import Instance, Instances, references
from epp.scheduling.contract import BuildContext
from epp.scheduling.profile import Named


class _Failed(Exception):  # noqa: N818 - never leaves this file
    """A plugin that another one needs could not be built; it has been reported."""


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A plugin, and what it was made of."""

    instance: Instance
    step: Named[object]
    others: Mapping[str, object | None]
    """Plugins that it needs, names or asked for, by name; None for a name that nothing had."""


class Builder:
    """Builds on demand, so that a constructor may ask for any other plugin; a circle is a problem."""

    def __init__(self, instances: Instances, before: Mapping[str, Built] | None = None) -> None:
        """`before` are the plugins of the configuration that is to be replaced, by name."""
        self._instances = instances
        self._report = instances.report
        self._before = before or {}
        self.made: dict[str, Built] = {}
        self.built: dict[str, Named[object]] = {}
        """By instance name, in the order in which they were finished: producers before who needs them."""
        self._failed: set[str] = set()
        self._open: list[str] = []

    def build_all(self) -> None:
        for instance in list(self._instances.known.values()):
            self.get(instance)

    def get(self, instance: Instance) -> Named[object] | None:
        """The built plugin, or None when it cannot be built; that has been reported then."""
        try:
            return self._get(instance)
        except _Failed:
            return None

    def _get(self, instance: Instance) -> Named[object]:
        name = instance.name
        if name in self.built:
            return self.built[name]
        if name in self._failed:
            raise _Failed
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            self._report.error(instance.path, f"plugins need each other in a circle: {circle}")
            raise _Failed
        self._open.append(name)
        try:
            others = self._needs(instance)
            step = self._kept(instance, others) or self._constructed(instance, others)
        except _Failed:
            self._failed.add(name)
            raise
        finally:
            self._open.pop()
        self.built[name] = step
        self.made[name] = Built(instance, step, others)
        return step

    @property
    def kept(self) -> frozenset[str]:
        """Names of the plugins that were taken over."""
        before = self._before
        return frozenset(
            name for name, step in self.built.items() if name in before and before[name].step is step
        )

    def _needs(self, instance: Instance) -> dict[str, object | None]:
        """Those that are built before it."""
        known = self._instances.known
        others: dict[str, object | None] = {}
        for other in list(known.values()):
            if other.type_name in instance.row.type.needs and other is not instance:
                others[other.name] = self._get(other).plugin
        for _, name in references(instance):
            if name in known and name != instance.name:
                others[name] = self._get(known[name]).plugin
        return others

    def _kept(self, instance: Instance, others: dict[str, object | None]) -> Named[object] | None:
        """The plugin as it was, where that is what building it would give; completes `others` then."""
        before = self._before.get(instance.name)
        if before is None or not _alike(instance, before.instance) or others.keys() - before.others.keys():
            return None
        known = self._instances.known
        now = dict(others)
        for name, plugin in before.others.items():
            if name not in now:
                now[name] = self._get(known[name]).plugin if name in known else None
            if now[name] is not plugin:
                return None
        others.update(now)
        return before.step

    def _constructed(self, instance: Instance, others: dict[str, object | None]) -> Named[object]:
        at = (*instance.path, "parameters")
        known = self._instances.known

        def plugin(name: str) -> object:
            if name not in known:
                others[name] = None
                raise KeyError(name)
            found = others[name] = self._get(known[name]).plugin
            return found

        try:
            built = instance.row.type.build(instance.parameters, BuildContext(instance.name, plugin))
            return Named(instance.name, instance.type_name, built)
        except _Failed:
            raise
        except KeyError as error:
            word = str(error.args[0]) if error.args else ""
            self._report.error(at, f"no plugin is named '{word}'{nearest(word, self._instances.named)}")
        except FieldError as error:
            self._report.error((*at, error.field), str(error))
        except ValueError as error:
            self._report.error(at, str(error))
        except Exception as error:  # a published plugin may fail in any way; it was asked for, so we stop
            self._report.error(at, f"'{instance.type_name}' failed to start: {type(error).__name__}: {error}")
        raise _Failed


def _alike(instance: Instance, before: Instance) -> bool:
    """Of one type, of one package, with the same parameters; where they stand in the text does not matter."""
    row, old = instance.row, before.row
    same = row is old or (row.origin == old.origin == BUILT_IN and row.name == old.name) or row == old
    return same and bool(instance.parameters == before.parameters)
