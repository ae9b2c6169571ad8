"""Sticky until saturated: keep endpoints that have most of the prompt, unless they are too far behind."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, field

from epp.domain.snapshot import Bools, Ints
from epp.plugins.signals import APPROXIMATE_PREFIX, inflight_tokens, prefix_match, uncached_tokens
from epp.scheduling.columns import least
from epp.scheduling.contract import BuildContext, Cycle, PluginType


class PrefixAffinityParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    affinity_threshold: Annotated[
        float, Meta(ge=0, le=1, description="cached share of the prompt from which an endpoint is sticky")
    ] = 0.8
    exploration_probability: Annotated[
        float, Meta(ge=0, le=1, description="chance that a request skips the filter")
    ] = 0.0
    max_ttft_penalty_ms: Annotated[
        float, Meta(ge=0, description="ms that a sticky endpoint may be slower; 0 for any")
    ] = field(default=18_000.0, name="maxTTFTPenaltyMs")
    ttft_source: Annotated[
        Literal["prefillThroughput", "latencyPredictor"],
        Meta(description="how time to first token is estimated"),
    ] = field(default="prefillThroughput", name="ttftSource")
    peak_prefill_throughput: Annotated[
        float, Meta(gt=0, description="prompt tokens/s of an unloaded endpoint")
    ] = 15_928.0
    prefix_match_info_producer_name: Annotated[str, Meta(description="producer of prefix matches")] = ""
    in_flight_load_producer_name: Annotated[str, Meta(description="producer of tokens in flight")] = ""


class PrefixAffinity:
    """Keeps the sticky endpoints. Keeps all when none is, or when the best of them would give its first token
    more than the penalty later than the best other: (tokens in flight + uncached) / peak throughput."""

    def __init__(self, parameters: PrefixAffinityParameters) -> None:
        self._p = parameters

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        p = self._p
        everyone = np.ones(len(rows), dtype=np.bool_)
        match = prefix_match(cycle, p.prefix_match_info_producer_name)
        if match is None or not match.total_blocks:
            return everyone
        sticky: Bools = match.matched_blocks[rows] >= p.affinity_threshold * match.total_blocks
        if not sticky.any() or sticky.all():
            return everyone
        if p.exploration_probability and cycle.rng.random() < p.exploration_probability:
            return everyone
        if p.max_ttft_penalty_ms:
            tokens = inflight_tokens(cycle, rows, p.in_flight_load_producer_name)
            tokens = tokens + uncached_tokens(cycle, rows, p.prefix_match_info_producer_name)
            behind = least(tokens[sticky]) - least(tokens[~sticky])
            if behind / p.peak_prefill_throughput * 1000.0 > p.max_ttft_penalty_ms:
                return everyone
        return sticky


def _build(parameters: PrefixAffinityParameters, context: BuildContext) -> PrefixAffinity:
    if parameters.ttft_source == "latencyPredictor":
        raise ValueError("ttftSource latencyPredictor is not supported yet; use prefillThroughput")
    return PrefixAffinity(parameters)


PLUGINS = (
    PluginType(
        "prefix-cache-affinity-filter",
        PrefixAffinityParameters,
        _build,
        "keeps endpoints that have most of the prompt cached, unless they are too far behind",
        needs=(APPROXIMATE_PREFIX,),
    ),
)
