"""Builds the queues of a configuration and ties them to what wakes them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from epp.admission.control import FlowControl
from epp.admission.stages import StagedDetector
from epp.config.loaded import Loaded
from epp.datalayer.inflight import Ledger
from epp.datalayer.objectives import Objectives
from epp.datalayer.store import Store
from epp.domain.views import Clock
from epp.queues import Place, Queues


def open_queues(
    loaded: Loaded, *, store: Store, ledger: Ledger, objectives: Objectives, clock: Clock, chance: Random
) -> Queues | None:
    """None where the feature gate `flowControl` is closed: then the gate alone decides."""
    if loaded.flow is None:
        return None
    control: FlowControl[Place] = FlowControl(loaded.flow, clock())
    detector = StagedDetector(loaded.detector.plugin)
    queues = Queues(control, detector, store=store, inflight=ledger, clock=clock, chance=chance.random)
    store.on_change = queues.changed
    objectives.observe(_provisioner(control, clock))
    return queues


def _provisioner(control: FlowControl[Place], clock: Clock) -> Callable[[frozenset[int]], None]:
    def provision(priorities: frozenset[int]) -> None:
        control.registry.provision(priorities, clock())

    return provision
