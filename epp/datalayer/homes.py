"""Where stored answers live: `/v1/responses` ids and the endpoint that made them.

A follow-up (`previous_response_id`, GET, DELETE) only works on the server that holds the stored answer.
"""

from __future__ import annotations

from collections import OrderedDict

CAPACITY = 100_000
"""Ids kept, about 200 bytes each; the longest unused go first."""
_MAX_ID = 256
"""Longer ids are not the engines'."""


class Homes:
    """Least-recently-used map of response id to endpoint key (`namespace/name`)."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._keys: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def remember(self, response_id: str, endpoint_key: str) -> None:
        if not response_id or len(response_id) > _MAX_ID:
            return
        self._keys[response_id] = endpoint_key
        self._keys.move_to_end(response_id)
        if len(self._keys) > self._capacity:
            self._keys.popitem(last=False)

    def of(self, response_id: str) -> str | None:
        """Key of the endpoint that made the answer, as far as we saw it."""
        key = self._keys.get(response_id)
        if key is not None:
            self._keys.move_to_end(response_id)
        return key
