"""`featureGates`: switches of the reference picker, each with its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from epp.config.problems import Report, nearest

FLOW_CONTROL = "flowControl"
HA_DATASTORE = "haPopulateNonLeaderDatastore"
DEFAULTS: Mapping[str, bool] = MappingProxyType({FLOW_CONTROL: False, HA_DATASTORE: True})
_BOOLS = {"true": True, "false": False}


def read_gates(words: Sequence[str], report: Report) -> dict[str, bool]:
    """Every gate; a bare name opens it, the last word about one counts."""
    gates = dict(DEFAULTS)
    for i, word in enumerate(words):
        at = ("featureGates", i)
        gate, given, value = word.partition("=")
        if gate not in DEFAULTS:
            report.error(at, f"unknown feature gate '{gate}'{nearest(gate, DEFAULTS)}")
        elif given and value.lower() not in _BOOLS:
            report.error(at, f"feature gate '{gate}' takes true or false, not '{value}'")
        else:
            gates[gate] = _BOOLS.get(value.lower(), True)
            if gate == HA_DATASTORE:
                report.notice(at, f"'{gate}' has no effect without leader election")
    return gates
