"""Who serves a model, as far as the lists of models tell: pure functions of a snapshot."""

from __future__ import annotations

import msgspec
import numpy as np

from epp.domain.snapshot import Bools, Ints, Snapshot

MAX_NAMES = 10_000
MAX_MASKS = 1024
"""Model names whose filter answer is kept; clients choose them."""


class _Model(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Model]


_decoder = msgspec.json.Decoder(_List)


def model_names(body: bytes) -> frozenset[str]:
    """Ids of a `/v1/models` answer. Raises ValueError when it is none."""
    names = frozenset(model.id for model in _decoder.decode(body).data)
    if len(names) > MAX_NAMES:
        raise ValueError(f"more than {MAX_NAMES} models")
    return names


class Masks:
    """Filter answers of a pool's newest list of models. A memo: it changes no answer."""

    def __init__(self) -> None:
        self._models: tuple[frozenset[str] | None, ...] = ()
        self._masks: dict[str, Bools] = {}

    def serving(self, snapshot: Snapshot, model: str, rows: Ints) -> Bools:
        """As `serving`."""
        models = snapshot.models
        if models is not self._models or len(self._masks) >= MAX_MASKS:
            self._models, self._masks = models, {}
        mask = self._masks.get(model)
        if mask is None:
            mask = self._masks[model] = serving(snapshot, model, snapshot.every)
        found: Bools = mask[rows]
        return found


def serving(snapshot: Snapshot, model: str, rows: Ints) -> Bools:
    """One boolean for each of `rows`: False where it is known that the endpoint does not serve `model`."""
    models = snapshot.models
    listed = ((names := models[row]) is None or model in names for row in rows.tolist())
    return np.fromiter(listed, np.bool_, len(rows))


def certainly_unserved(snapshot: Snapshot, model: str, rows: Ints) -> bool:
    """Whether every one of `rows` has told its models and none of them is `model`.

    The lists may be as old as the probe's interval; `ModelProbe.certainly_unserved` knows how old they are.
    """
    return len(rows) > 0 and not serving(snapshot, model, rows).any()
