"""Random but repeatable situations in which every plugin must obey the laws."""

from __future__ import annotations

import base64
from random import Random
from typing import Any

import msgspec
import numpy as np

from epp.datalayer.inflight import Ledger
from epp.domain.request import Request
from epp.domain.snapshot import NEVER, Ints, Snapshot
from epp.parsing.blocks import HASH_BYTES, block_hashes, root
from epp.plugins import PLUGINS
from epp.plugins.signals import APPROXIMATE_PREFIX
from epp.scheduling.contract import BuildContext, Cycle, PluginType, PrefixMatch
from tests.builders import endpoint, request, snapshot

PARAMETERS: dict[str, dict[str, Any]] = {
    "utilization-filter": {"conditions": [{"metric": "waiting-queue", "maxValue": 3}]},
    "header-label-affinity-scorer": {"headerName": "x-zone", "labelKey": "zone"},
    "by-label": {"label": "zone", "validValues": ["a"], "allowsNoLabel": True},
    "label-selector-filter": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
}
"""For types that cannot be built without; all others are built with their defaults."""

BY_TYPE: dict[str, PluginType[Any]] = {row.type_name: row for row in PLUGINS}


def build(type_name: str, **parameters: Any) -> Any:
    """A plugin as the configuration would build it; parameters by their names there."""
    row = BY_TYPE[type_name]
    given = parameters or PARAMETERS.get(type_name, {})
    decoded = msgspec.convert(given, row.parameters)
    return row.build(decoded, BuildContext(type_name, {}.__getitem__))


def types_with(method: str) -> list[str]:
    """Types whose plugins have this method of the contract."""
    return [name for name in BY_TYPE if hasattr(build(name), method)]


class World:
    """A pool in some state, our own load on it, a request, and what producers said."""

    def __init__(self, seed: int, size: int, *, idle: bool = False) -> None:
        rng = Random(seed)
        self.seed = seed
        self.size = size
        roles = (None, "decode", "prefill", "both", "encode", "encode-prefill-decode", "odd")
        ranges = (None, "0-100", "50-50", "0-100000", "nonsense", "200-100")
        slots = rng.sample(range(size + 5), size)  # slots are not rows
        pool = []
        for slot in slots:
            labels = {"zone": rng.choice("abc")} if rng.random() < 0.7 else {}
            for label, values in (("llm-d.ai/role", roles), ("llm-d.ai/context-length-range", ranges)):
                value = rng.choice(values)
                if value is not None:
                    labels[label] = value
            pool.append(endpoint(slot, labels=labels))

        def draw(most: float) -> list[float]:
            return [0.0 if idle else rng.random() * most for _ in range(size)]

        def names() -> list[str]:
            return [] if idle else rng.sample(["base", "lora-1", "lora-2", "lora-3"], rng.randrange(4))

        self.snapshot: Snapshot = snapshot(
            endpoints=pool,
            waiting=np.floor(draw(6)),
            running=np.floor(draw(40)),
            kv_used=draw(1.0),
            block_size=[rng.choice((0, 16, 128)) for _ in range(size)],
            num_blocks=[rng.choice((0, 27_000)) for _ in range(size)],
            scraped_at=[rng.choice((100.0, 99.95, 90.0, NEVER)) for _ in range(size)],
            lora_max=[rng.randrange(4) for _ in range(size)],
            lora_running=[names() for _ in range(size)],
            lora_waiting=[names() for _ in range(size)],
        )
        _freeze(self.snapshot)
        self.rows: Ints = np.arange(size)
        self.rows.flags.writeable = False
        self.ledger = Ledger()
        for slot in () if idle else slots:
            for _ in range(rng.randrange(4)):
                self.ledger.start(slot, prefill_tokens=rng.randrange(5000), decode_tokens=rng.randrange(500))
        headers = {"x-zone": "a", "epp-profile": "default", "x-session-id": "s-1"}
        if size:
            key = rng.choice(pool).key
            headers["x-session-token"] = base64.b64encode(key.encode()).decode()
            headers["test-epp-endpoint-selection"] = f"{pool[0].ip},{pool[-1].authority}"
        self.request: Request = request(rng.randbytes(1000), model="lora-1", headers=headers)
        blocks = len(block_hashes(self.request.prompts, 64, 2048)[0]) // HASH_BYTES
        matched = np.zeros(size) if idle else np.asarray([float(rng.randrange(blocks + 1)) for _ in pool])
        self.match = PrefixMatch(matched, blocks, 64)
        assert root("lora-1", "") != 0

    def cycle(self, seed: int = 1) -> Cycle:
        """A fresh cycle, as it is when profiles begin."""
        cycle = Cycle(
            request=self.request,
            snapshot=self.snapshot,
            now=100.0,
            rng=Random(seed),
            inflight=self.ledger,
            profiles=("default",),
        )
        cycle.prefix[APPROXIMATE_PREFIX] = self.match
        return cycle

    def columns(self) -> dict[str, bytes]:
        """All columns that a plugin can reach, for comparison."""
        found = {name: getattr(self.snapshot, name).tobytes() for name in _COLUMNS}
        found["matched"] = self.match.matched_blocks.tobytes()
        for view in (self.ledger.requests, self.ledger.prefill_tokens, self.ledger.decode_tokens):
            found[view.__name__] = view(self.snapshot.slots).tobytes()
        return found


_COLUMNS = (
    "slots", "waiting", "running", "kv_used", "block_size", "num_blocks", "scraped_at", "lora_max",
    "available",
)  # fmt: skip


def _freeze(frozen: Snapshot) -> None:
    for name in _COLUMNS:
        getattr(frozen, name).flags.writeable = False
