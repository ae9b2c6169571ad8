"""Built-in configurations, as the texts that an operator could have written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DEFAULT = "expected-work"
"""What runs without any configuration."""


@dataclass(frozen=True, slots=True)
class Preset:
    summary: str
    text: str


_EXPECTED_WORK = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: approx-prefix-cache-producer
- type: expected-work-scorer
- type: max-score-picker
- type: metrics-data-source
- type: core-metrics-extractor
- type: models-data-source
- type: models-data-extractor
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: expected-work-scorer
  - pluginRef: max-score-picker
dataLayer:
  sources:
  - pluginRef: metrics-data-source
    extractors:
    - pluginRef: core-metrics-extractor
  - pluginRef: models-data-source
    extractors:
    - pluginRef: models-data-extractor
"""

_REFERENCE = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
    weight: 2
  - pluginRef: kv-cache-utilization-scorer
    weight: 2
  - pluginRef: prefix-cache-scorer
    weight: 3
"""

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        DEFAULT: Preset(
            "Least expected work: prefill backlog, uncached prompt, running requests.", _EXPECTED_WORK
        ),
        "reference": Preset("The reference picker's default: queue 2, KV cache 2, prefix 3.", _REFERENCE),
    }
)
