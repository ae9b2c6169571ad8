"""What the pools of a process share, made for tests of pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from time import monotonic

from epp.datalayer.models import ModelProber
from epp.datalayer.scrape import Scraper
from epp.generation import Services
from epp.telemetry.metrics import Metrics
from epp.telemetry.otel import open_tracer
from epp.telemetry.reasons import DecisionLog
from epp.telemetry.refusals import RefusalLog


def services(
    *,
    environ: Mapping[str, str] | None = None,
    clock: Callable[[], float] = monotonic,
    waiting: Callable[[object, bool], None] = lambda who, waiting: None,
) -> Services:
    return Services(
        metrics=Metrics(),
        tracer=open_tracer(False, {}),
        decisions=DecisionLog(100),
        refusals=RefusalLog(),
        scraper=Scraper(),
        prober=ModelProber(),
        chance=Random(0),
        clock=clock,
        environ=environ or {},
        waiting=waiting,
    )
