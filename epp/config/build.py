"""Instances -> built plugins, each after the plugins that it needs or names."""

from __future__ import annotations

from epp.config.decode import FieldError
from epp.config.problems import nearest
from epp.config.resolve import Instance, Instances, references
from epp.scheduling.contract import BuildContext
from epp.scheduling.profile import Named


class _Failed(Exception):  # noqa: N818 - never leaves this file
    """A plugin that another one needs could not be built; it has been reported."""


class Builder:
    """Builds on demand, so that a constructor may ask for any other plugin; a circle is a problem."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        self._report = instances.report
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
            self._needs(instance)
            plugin = self._construct(instance)
        except _Failed:
            self._failed.add(name)
            raise
        finally:
            self._open.pop()
        self.built[name] = Named(name, instance.type_name, plugin)
        return self.built[name]

    def _needs(self, instance: Instance) -> None:
        known = self._instances.known
        for other in list(known.values()):
            if other.type_name in instance.row.type.needs and other is not instance:
                self._get(other)
        for _, name in references(instance):
            if name in known and name != instance.name:
                self._get(known[name])

    def _construct(self, instance: Instance) -> object:
        at = (*instance.path, "parameters")

        def plugin(name: str) -> object:
            return self._get(self._instances.known[name]).plugin

        try:
            return instance.row.type.build(instance.parameters, BuildContext(instance.name, plugin))
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
