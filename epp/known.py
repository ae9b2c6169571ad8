"""What is known of one pool, whichever policy uses it: it outlives every configuration."""

from __future__ import annotations

import secrets
from random import Random

from epp.config.own import Observe, OwnBlock
from epp.datalayer.homes import Homes
from epp.datalayer.inflight import Ledger
from epp.datalayer.objectives import Objectives
from epp.datalayer.observation.gateways import Mode
from epp.datalayer.observation.observation import Observation, Rules
from epp.datalayer.outliers import Outliers
from epp.datalayer.outputs import OutputLengths
from epp.datalayer.rewrites import Rewrites
from epp.datalayer.store import Store
from epp.domain.views import EndpointObserver


class Known:
    """Written by the event loop alone."""

    def __init__(self, own: OwnBlock, policy: EndpointObserver) -> None:
        """`policy` is told of slots that are freed, as the ledger is."""
        self.ledger = Ledger()
        self.outliers: Outliers | None = None
        if own.outliers.enabled:
            self.outliers = Outliers(
                Random(secrets.randbits(64)), base_s=own.outliers.base_time, cap_s=own.outliers.max_time
            )
        self.observation = _observation(own.observe, self.ledger)
        self.store = Store(observers=[self.ledger, self.observation, policy], health=self.outliers)
        self.objectives = Objectives(own.objectives.default_priority)
        self.rewrites = Rewrites()
        self.homes = Homes()
        self.outputs = OutputLengths()

    def tick(self, now: float) -> None:
        """What is due by now: endpoints let back in, first tokens that nobody saw."""
        if self.outliers is not None:
            self.outliers.tick(now)
        if self.observation.heap:
            self.observation.settle(now)


def _observation(own: Observe, ledger: Ledger) -> Observation:
    always = own.always
    return Observation(
        ledger,
        Random(secrets.randbits(64)),
        mode=Mode(own.mode),
        rules=Rules(always.header.lower(), frozenset(always.models), frozenset(always.objectives)),
        interval_s=own.sample_interval,
        rate=own.samples_per_second,
        prefill_rate=own.prefill_tokens_per_second,
    )
