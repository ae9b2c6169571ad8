"""`schedulingProfiles` and built plugins -> profiles and their handler, with what the format leaves out."""

from __future__ import annotations

from epp.config.build import Builder
from epp.config.catalog import Kind
from epp.config.problems import Path
from epp.config.resolve import Instance, Instances
from epp.config.schema import ProfilePlugin, ProfileSpec
from epp.scheduling.contract import Filter, Picker, Producer, ProfileHandler, Scorer
from epp.scheduling.profile import Named, Profile

DEFAULT_PROFILE = "default"
DEFAULT_PICKER = "max-score-picker"
DEFAULT_HANDLER = "single-profile-handler"
DEFAULT_WEIGHT = 1.0

_KINDS = (Kind.SCHEDULING, Kind.SATURATION)


class Profiles:
    def __init__(self, instances: Instances, builder: Builder) -> None:
        self._instances = instances
        self._builder = builder
        self._report = instances.report

    def build(self, specs: list[ProfileSpec]) -> tuple[Profile, ...]:
        """Every profile; without any in the configuration one that uses all plugins of the list."""
        if not specs:
            return (self._all_plugins(),)
        profiles: dict[str, Profile] = {}
        for i, spec in enumerate(specs):
            path: Path = ("schedulingProfiles", i)
            if not spec.name and not self._report.blames((*path, "name")):
                self._report.error(path, "'name' is required")
            if spec.name in profiles:
                self._report.error((*path, "name"), f"duplicate profile name '{spec.name}'")
            profile = self._profile(spec, path)
            if spec.name and profile is not None:
                profiles[spec.name] = profile
        self._tell_unused()
        return tuple(profiles.values())

    def _profile(self, spec: ProfileSpec, path: Path) -> Profile | None:
        steps: list[tuple[Instance, ProfilePlugin, Path]] = []
        for j, entry in enumerate(spec.plugins):
            at = (*path, "plugins", j)
            instance = self._instances.refer(entry.plugin_ref, at, *_KINDS)
            if instance is not None:
                steps.append((instance, entry, at))
        return self._assemble(spec.name, steps)

    def _all_plugins(self) -> Profile:
        steps = [
            (instance, ProfilePlugin(plugin_ref=instance.name), instance.path)
            for instance in self._instances.known.values()
            if instance.row.kind in _KINDS and instance.path
        ]
        profile = self._assemble(DEFAULT_PROFILE, steps, chosen=False)
        return profile if profile is not None else Profile(DEFAULT_PROFILE, self._default_picker())

    def _assemble(
        self, name: str, steps: list[tuple[Instance, ProfilePlugin, Path]], *, chosen: bool = True
    ) -> Profile | None:
        """`chosen`: the operator put these plugins here, so one that does nothing here deserves a notice."""
        filters: list[Named[Filter]] = []
        scorers: list[tuple[Named[Scorer], float]] = []
        picker: Named[Picker] | None = None
        for instance, entry, at in steps:
            step = self._builder.get(instance)
            if step is None:
                continue
            plugin = step.plugin
            if isinstance(plugin, Filter):
                filters.append(Named(step.name, step.type_name, plugin))
            if isinstance(plugin, Scorer):
                weight = DEFAULT_WEIGHT if entry.weight is None else entry.weight
                scorers.append((Named(step.name, step.type_name, plugin), weight))
            elif entry.weight is not None:
                self._report.notice((*at, "weight"), f"'{step.name}' is no scorer; its weight has no effect")
            if isinstance(plugin, Picker):
                if picker is not None:
                    self._report.error(at, f"profile '{name}' has a second picker: '{step.name}'")
                picker = Named(step.name, step.type_name, plugin)
            elif chosen and not isinstance(plugin, Filter | Scorer):
                self._report.notice(at, f"'{step.name}' has no effect in a profile; it works by being listed")
        return Profile(name, picker or self._default_picker(), tuple(filters), tuple(scorers))

    def _default_picker(self) -> Named[Picker]:
        instance = self._instances.add(DEFAULT_PICKER)
        step = self._builder.get(instance) if instance is not None else None
        if step is None or not isinstance(step.plugin, Picker):
            self._report.raise_any()
            raise TypeError(f"{DEFAULT_PICKER} is no picker")
        self._instances.taken.add(step.name)
        return Named(step.name, step.type_name, step.plugin)

    def handler(self, profiles: tuple[Profile, ...]) -> Named[ProfileHandler] | None:
        """The one profile handler; single-profile-handler where there is one profile and no handler."""
        found: Named[ProfileHandler] | None = None
        for name, instance in list(self._instances.known.items()):
            step = self._builder.built.get(name)
            if step is None or not isinstance(step.plugin, ProfileHandler):
                continue
            if found is not None:
                self._report.error(instance.path, f"a second profile handler; '{found.name}' is the first")
                continue
            found = Named(step.name, step.type_name, step.plugin)
            if instance.type_name == DEFAULT_HANDLER and len(profiles) > 1:
                self._report.error(instance.path, f"{DEFAULT_HANDLER} takes one profile, not {len(profiles)}")
        if found is not None:
            return found
        if len(profiles) > 1:
            self._report.error(("schedulingProfiles",), f"{len(profiles)} profiles need a profile handler")
            return None
        added = self._instances.add(DEFAULT_HANDLER)
        step = self._builder.get(added) if added is not None else None
        if step is None or not isinstance(step.plugin, ProfileHandler):
            return None
        return Named(step.name, step.type_name, step.plugin)

    def _tell_unused(self) -> None:
        for name, instance in self._instances.known.items():
            step = self._builder.built.get(name)
            if not instance.path or name in self._instances.taken or step is None:
                continue
            if instance.row.kind is not Kind.SCHEDULING:
                continue  # those are told with the other layers
            if isinstance(step.plugin, Filter | Scorer | Picker) and not isinstance(step.plugin, Producer):
                self._report.notice(instance.path, f"'{name}' is used by no profile")
