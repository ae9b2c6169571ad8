"""The gateway's subset hint: which endpoints of the pool it allows for a request."""

from __future__ import annotations

import numpy as np

from epp.domain.snapshot import Ints, Snapshot


def subset_rows(snapshot: Snapshot, subset: tuple[str, ...]) -> Ints:
    """Rows that the gateway allows. An entry with a port means that endpoint; where no endpoint has just this
    address and port, and for entries without one, every port of the address is meant."""
    exact = {endpoint.authority for endpoint in snapshot.endpoints}
    allowed, addresses = set(), set()
    for entry in subset:
        if entry in exact:
            allowed.add(entry)
        else:
            addresses.add(_address(entry))
    rows = [
        row
        for row, endpoint in enumerate(snapshot.endpoints)
        if endpoint.authority in allowed or endpoint.ip in addresses
    ]
    return np.asarray(rows, dtype=np.intp)


def _address(entry: str) -> str:
    """`10.0.0.1`, `10.0.0.1:80`, `[::1]:80`, `[::1]` or `::1` without port and brackets."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry if entry.count(":") > 1 else entry.partition(":")[0]
