"""A configuration after loading: built plugins, and the settings of the rooms that start later."""

from __future__ import annotations

from dataclasses import dataclass

from epp.admission.saturation import SaturationDetector
from epp.admission.settings import FlowControlSettings
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
