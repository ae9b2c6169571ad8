"""The SDK's tracer as our traces use it."""

from __future__ import annotations

from dataclasses import dataclass

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Tracer as SdkTracer


class Ids(RandomIdGenerator):
    """Gives the next root the trace id by which it was sampled."""

    def __init__(self) -> None:
        self.next_trace_id = 0

    def generate_trace_id(self) -> int:
        return self.next_trace_id or super().generate_trace_id()


@dataclass(frozen=True, slots=True)
class Provider:
    tracer: SdkTracer
    ids: Ids
    sdk: TracerProvider

    def shutdown(self) -> None:
        self.sdk.shutdown()
