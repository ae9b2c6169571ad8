"""Which endpoints may be chosen for a request, before any policy has a say."""

from __future__ import annotations

import numpy as np

from epp.datalayer.homes import Homes
from epp.datalayer.models import ModelProbe
from epp.datalayer.serving import Masks
from epp.domain.errors import Reason, Refused
from epp.domain.request import Api, Request
from epp.domain.snapshot import Ints, Snapshot
from epp.domain.views import Clock
from epp.scheduling.subset import subset_rows

_MODELLED = (Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.EMBEDDINGS, Api.ANTHROPIC, Api.RERANK)
"""APIs whose model must be served by the endpoint."""
_MODELS_MAX = 1024
"""Whose service everywhere is remembered; clients choose the names."""


class Candidates:
    """Asked for every request by the one event loop."""

    def __init__(
        self, homes: Homes, models: ModelProbe | None, clock: Clock, *, subset_filter: bool = True
    ) -> None:
        """`subset_filter`: obey the gateway's subset hint."""
        self._homes = homes
        self._probe = models
        self._clock = clock
        self._subset_filter = subset_filter
        self._masks = Masks()
        self._models: tuple[frozenset[str] | None, ...] = ()
        self._everywhere: set[str] = set()
        """Models that every endpoint serves, as far as `_models` tells."""

    def of(self, snapshot: Snapshot, subset: tuple[str, ...] | None, request: Request) -> Ints:
        """Rows that may be chosen; raises Refused when there are none."""
        if not len(snapshot):
            raise Refused(Reason.NO_ENDPOINTS, "the pool has no endpoints")
        if subset is None or not self._subset_filter:
            rows = snapshot.every
        else:
            rows = subset_rows(snapshot, subset)
            if not len(rows):
                text = "none of the pool's endpoints is among those that the gateway allows"
                raise Refused(Reason.NO_ENDPOINTS, text)
        if request.previous_response_id:
            home = self._homes.of(request.previous_response_id)
            there = [row for row in rows.tolist() if snapshot.endpoints[row].key == home]
            if there:
                return np.asarray(there, dtype=np.intp)
        if self._probe is None or not request.target_model or request.api not in _MODELLED:
            return rows
        return self._serving(snapshot, request.target_model, rows, self._probe)

    def _serving(self, snapshot: Snapshot, model: str, rows: Ints, probe: ModelProbe) -> Ints:
        """Without the rows that are known not to serve the model, unless that would be all of them."""
        if snapshot.models is not self._models or len(self._everywhere) >= _MODELS_MAX:
            self._models = snapshot.models
            self._everywhere = set()
        if model in self._everywhere:
            return rows
        serves = self._masks.serving(snapshot, model, rows)
        fit = np.count_nonzero(serves)
        if fit == len(rows):
            if rows is snapshot.every:
                self._everywhere.add(model)
        elif fit:
            return rows[serves]
        elif probe.certainly_unserved(snapshot, model, rows, self._clock()):
            text = f"no endpoint of the pool serves the model {model[:200]!r}"
            raise Refused(Reason.MODEL_NOT_FOUND, text, param="model")
        return rows
