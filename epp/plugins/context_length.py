"""Prefer endpoints whose label says that they are meant for prompts of this length; if asked, insist."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import Bools, Floats, Ints
from epp.plugins.signals import EndpointColumn
from epp.scheduling.contract import BuildContext, Cycle, PluginType

_RANGE = re.compile(r"\s*([0-9]{1,15})\s*-\s*([0-9]{1,15})\s*")
_NO_LABEL, _BAD_LABEL = -1.0, -2.0
"""Stand in for the lower bound."""


class ContextLengthParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    label: Annotated[
        str, Meta(min_length=1, description="label with the range of prompt tokens, as min-max")
    ] = "llm-d.ai/context-length-range"
    enable_filtering: Annotated[bool, Meta(description="also drop endpoints whose range does not fit")] = (
        False
    )


class ContextLength:
    """In range 0.3 + 0.7 x (0.7 / (1 + width/10000) + 0.3 x headroom/width), 1 when the range is one length;
    outside 0.3 / (1 + distance/1000); 0.5 without a label, 0 with one that cannot be read. In tokens."""

    def __init__(self, parameters: ContextLengthParameters) -> None:
        self._low = EndpointColumn(lambda endpoint: _range(endpoint, parameters.label)[0], np.float64)
        self._high = EndpointColumn(lambda endpoint: _range(endpoint, parameters.label)[1], np.float64)

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        low, high = self._low.of(cycle.snapshot)[rows], self._high.of(cycle.snapshot)[rows]
        tokens = float(cycle.request.input_tokens)
        width = high - low
        inside = 0.7 / (1.0 + width / 10_000.0) + 0.3 * (high - tokens) / np.where(width > 0, width, 1.0)
        distance = np.where(tokens < low, low - tokens, tokens - high)
        scores = np.where(
            (tokens >= low) & (tokens <= high),
            np.where(width > 0, 0.3 + 0.7 * inside, 1.0),
            0.3 / (1.0 + np.abs(distance) / 1000.0),
        )
        scores[low == _NO_LABEL] = 0.5
        scores[low == _BAD_LABEL] = 0.0
        return scores


class ContextLengthFilter(ContextLength):
    """Also a filter: endpoints without the label stay, those with one that cannot be read go."""

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        low, high = self._low.of(cycle.snapshot)[rows], self._high.of(cycle.snapshot)[rows]
        tokens = float(cycle.request.input_tokens)
        kept: Bools = ((tokens >= low) & (tokens <= high) & (low >= 0)) | (low == _NO_LABEL)
        return kept


def _range(endpoint: Endpoint, label: str) -> tuple[float, float]:
    text = endpoint.labels.get(label)
    if text is None:
        return _NO_LABEL, 0.0
    found = _RANGE.fullmatch(text)
    if found is None:
        return _BAD_LABEL, 0.0
    low, high = float(found[1]), float(found[2])
    return (low, high) if low <= high else (_BAD_LABEL, 0.0)


def _build(parameters: ContextLengthParameters, context: BuildContext) -> ContextLength:
    return (ContextLengthFilter if parameters.enable_filtering else ContextLength)(parameters)


PLUGINS = (
    PluginType(
        "context-length-aware",
        ContextLengthParameters,
        _build,
        "prefers endpoints labelled for prompts of this length",
    ),
)
