"""Reads a rendered metrics page with prometheus_client's own parsers."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from epp.telemetry.metrics import Metrics


class Page:
    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        parse = parse_openmetrics if openmetrics else parse_text
        self.families = {family.name: family for family in parse(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name: str, /, **labels: str) -> float:
        """The one sample of that name that carries at least these labels."""
        (found,) = self.values(name, **labels)
        return found

    def values(self, name: str, /, **labels: str) -> list[float]:
        return [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(s.labels) for s in self.samples if s.name == name]


def page(metrics: Metrics, *, openmetrics: bool = False) -> Page:
    return Page(joined(metrics.render(openmetrics)), openmetrics=openmetrics)


def joined(pieces: Iterable[str]) -> str:
    return "".join(pieces)
