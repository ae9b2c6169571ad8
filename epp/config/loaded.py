"""A configuration after loading: built plugins, and the settings of the rooms that start later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from epp.admission.saturation import SaturationDetector
from epp.admission.settings import FlowControlSettings
from epp.config.build import Built
from epp.config.changes import Changes, Started, changes
from epp.config.data import DataSettings
from epp.config.own import OwnBlock
from epp.config.problems import Problem
from epp.config.resolve import Instance
from epp.domain.views import Clock, InflightView
from epp.parsing.parser import Parser
from epp.scheduling.contract import PluginSink, ProfileHandler
from epp.scheduling.profile import Named, Profile
from epp.scheduling.scheduler import Scheduler


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """Plugins carry state (prefix index, sessions): one Loaded serves one pool."""

    source: str
    notices: tuple[Problem, ...]
    """What works but should be known: deprecated words, settings without effect."""
    instances: tuple[Instance, ...]
    """Every plugin with its parameters, those added by default last (their path is empty)."""
    profiles: tuple[Profile, ...]
    handler: Named[ProfileHandler]
    plugins: tuple[Named[object], ...]
    """Of the scheduling layer, in the order in which producers run."""
    detector: Named[SaturationDetector]
    parsers: tuple[Parser, ...]
    """In the order of the configuration."""
    data: DataSettings
    own: OwnBlock
    """The block `epp:`."""
    flow: FlowControlSettings | None = None
    """What the queues are built with; None where the feature gate `flowControl` is closed."""
    policies: tuple[Named[object], ...] = ()
    """The plugins in `flow`, with their names."""
    built: Mapping[str, Built] = field(default_factory=dict)
    """Every plugin by its name, with what it was made of."""
    kept: frozenset[str] = frozenset()
    """Names of the plugins that were taken over from the configuration before, state and all."""
    started: Started = field(default_factory=lambda: Started(OwnBlock(), None, OwnBlock()))
    """What holds for settings that no reload changes."""
    changes: Changes = field(default_factory=Changes)
    """Since the configuration before."""

    def after(self, before: Loaded) -> Loaded:
        """The same; where a part is as it was before, it is the very object that it was."""
        what = changes(before, self)
        return replace(
            self,
            profiles=self.profiles if what.scheduling else before.profiles,
            handler=self.handler if what.scheduling else before.handler,
            plugins=self.plugins if what.scheduling else before.plugins,
            detector=self.detector if what.detector else before.detector,
            flow=self.flow if what.flow else before.flow,
            policies=self.policies if what.flow else before.policies,
            parsers=self.parsers if what.parsers else before.parsers,
            data=self.data if what.data else before.data,
            own=self.own if what.own else before.own,
            changes=what,
        )

    def scheduler(
        self,
        inflight: InflightView,
        *,
        clock: Clock | None = None,
        sink: PluginSink | None = None,
        timed_every: int = 1,
    ) -> Scheduler:
        """The scheduler of this configuration; its parameters are those of Scheduler."""
        return Scheduler(
            self.profiles,
            self.handler,
            self.plugins,
            inflight,
            clock=clock,
            sink=sink,
            timed_every=timed_every,
        )
