"""Approximate prefix cache: what we sent to an endpoint is what it has cached. Producer and scorer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from epp.domain.decision import Decision
from epp.domain.endpoint import Endpoint
from epp.domain.request import Request
from epp.domain.snapshot import Floats, Ints, Snapshot
from epp.parsing.blocks import HASH_BYTES, block_hashes, root, rooted
from epp.plugins.prefix_index import PrefixIndex
from epp.plugins.signals import APPROXIMATE_PREFIX, prefix_match
from epp.scheduling.contract import BuildContext, Cycle, PluginType, PrefixMatch
from epp.scheduling.scheduler import PREFIX_TOKENS

MIN_BLOCK_TOKENS = 64
"""Smaller blocks are matched in units of 64 tokens, as by the reference picker: hashing costs a block."""
PREFILL_PROFILE = "prefill"
"""Its endpoint computes the prompt too, so it learns the blocks as well."""


class ApproximatePrefixParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    auto_tune: Annotated[
        bool, Meta(description="take block size and capacity from the engines where they report them")
    ] = True
    block_size_tokens: Annotated[
        int, Meta(gt=0, description="tokens a block where engines report none; never below 64 in effect")
    ] = 16
    block_size: Annotated[int, Meta(ge=0, description="deprecated name of blockSizeTokens; 0 for unset")] = 0
    max_prefix_blocks_to_match: Annotated[
        int, Meta(ge=0, description="blocks of a prompt that are looked at, when the limit in tokens is 0")
    ] = 2048
    max_prefix_tokens_to_match: Annotated[
        int, Meta(ge=0, description="tokens of a prompt that are looked at; 0 for the limit in blocks")
    ] = 131_072
    lru_capacity_per_server: Annotated[
        int, Meta(gt=0, description="blocks remembered an endpoint where engines report no capacity")
    ] = 31_250


class ApproximatePrefix:
    """Hashes the prompt once, matches it over all endpoints at once, learns from every choice."""

    only_elsewhere: ClassVar = True

    def __init__(self, parameters: ApproximatePrefixParameters, name: str = APPROXIMATE_PREFIX) -> None:
        self._p = parameters
        self._name = name
        self._index = PrefixIndex()
        self._version = -1
        self._endpoints: tuple[Endpoint, ...] | None = None
        self._block = MIN_BLOCK_TOKENS
        self._width = 0

    def produce(self, cycle: Cycle) -> None:
        request = cycle.request
        snapshot = cycle.snapshot
        if not request.prompts or not len(snapshot):
            return
        if snapshot.endpoints is not self._endpoints:
            self._width = int(np.max(snapshot.slots)) + 1
            self._endpoints = snapshot.endpoints
            self._version = -1
        if snapshot.version != self._version:
            self._block = self._block_tokens(snapshot)
            self._version = snapshot.version
        chains = self._chains(request)
        cycle.state[self._name] = chains
        # A late answer may have taught the index an endpoint that is gone.
        lengths = np.zeros(max(self._width, self._index.width))
        total = 0
        for chain in chains:
            self._index.match(chain, lengths)
            total += len(chain) // HASH_BYTES
        matched = lengths[snapshot.slots]
        match = cycle.prefix[self._name] = PrefixMatch(matched, total, self._block)
        cycle.columns[PREFIX_TOKENS] = match.tokens(request.input_tokens)

    def chosen(self, cycle: Cycle, decision: Decision) -> None:
        chains = cycle.state.get(self._name)
        if not isinstance(chains, list):
            return
        self._learn(decision.snapshot, decision.endpoint.slot, chains)
        for run in decision.runs:
            if run.profile == PREFILL_PROFILE != decision.primary and run.picked:
                self._learn(decision.snapshot, int(decision.snapshot.slots[run.picked[0]]), chains)

    def answer_headers(
        self, request: Request, decision: Decision, served: str | None
    ) -> Sequence[tuple[str, str]]:
        """The gateway may have retried elsewhere: then that endpoint has the blocks too."""
        if served and request.prompts and served != decision.endpoint.authority:
            for endpoint in decision.snapshot.endpoints:
                if endpoint.authority == served:
                    self._learn(decision.snapshot, endpoint.slot, self._chains(request))
        return ()

    def forget(self, slot: int) -> None:
        self._index.forget(slot)

    @property
    def entries(self) -> int:
        """Blocks remembered, summed over endpoints."""
        return self._index.entries

    def dump_state(self) -> Mapping[str, Any]:
        return {
            "blockTokens": self._block,
            "blocks": self._index.blocks,
            "entries": self._index.entries,
            "entriesBySlot": {str(slot): size for slot, size in self._index.sizes().items()},
        }

    def _block_tokens(self, snapshot: Snapshot) -> int:
        """Of several reported sizes the largest: all endpoints are matched with the same blocks."""
        p, sizes = self._p, snapshot.block_size
        reported = int(sizes[sizes.argmax(0)]) if p.auto_tune else 0
        return max(reported or p.block_size or p.block_size_tokens, MIN_BLOCK_TOKENS)

    def _chains(self, request: Request) -> list[bytes]:
        p = self._p
        if p.max_prefix_tokens_to_match:
            limit = max(1, p.max_prefix_tokens_to_match // self._block)
        else:
            limit = p.max_prefix_blocks_to_match or sys.maxsize
        start = root(request.target_model, request.cache_salt)
        return [rooted(chain, start) for chain in block_hashes(request.prompts, self._block, limit)]

    def _learn(self, snapshot: Snapshot, slot: int, chains: list[bytes]) -> None:
        capacity = self._p.lru_capacity_per_server
        if self._p.auto_tune:
            row = int((snapshot.slots == slot).argmax())
            if snapshot.slots[row] == slot:
                # Engines count in blocks of their own size, we in ours.
                tokens = int(snapshot.num_blocks[row]) * int(snapshot.block_size[row])
                capacity = tokens // self._block or capacity
        for chain in chains:
            self._index.learn(slot, chain, capacity)


class PrefixCacheParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    match_length_weight: Annotated[
        float, Meta(ge=0, le=1, description="share of the absolute match length in the score")
    ] = 0.0
    match_length_scale_tokens: Annotated[
        int, Meta(gt=0, description="matched tokens at which the absolute part is 1")
    ] = 8192
    prefix_match_info_producer_name: Annotated[
        str, Meta(description="producer of prefix matches; empty for the approximate one")
    ] = ""


class PrefixCache:
    """w x min(1, matched tokens / scale)^2 + (1 - w) x matched / total blocks; 0 without a match."""

    def __init__(self, parameters: PrefixCacheParameters) -> None:
        self._p = parameters

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        p = self._p
        match = prefix_match(cycle, p.prefix_match_info_producer_name)
        if match is None or not match.total_blocks:
            return np.zeros(len(rows))
        matched = match.matched_blocks[rows]
        share: Floats = matched / match.total_blocks
        if not p.match_length_weight:
            return share
        length = np.minimum(matched * (match.block_tokens / p.match_length_scale_tokens), 1.0)
        both: Floats = p.match_length_weight * length**2 + (1.0 - p.match_length_weight) * share
        return both


def _producer(parameters: ApproximatePrefixParameters, context: BuildContext) -> ApproximatePrefix:
    return ApproximatePrefix(parameters, context.name)


def _scorer(parameters: PrefixCacheParameters, context: BuildContext) -> PrefixCache:
    return PrefixCache(parameters)


PLUGINS = (
    PluginType(
        APPROXIMATE_PREFIX,
        ApproximatePrefixParameters,
        _producer,
        "guesses what each endpoint has cached from what was sent to it",
    ),
    PluginType(
        "prefix-cache-scorer",
        PrefixCacheParameters,
        _scorer,
        "cached share of the prompt",
        needs=(APPROXIMATE_PREFIX,),
    ),
)
