"""Filters and a scorer by endpoint labels: selectors, roles, a header that names a label's value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import Bools, Floats, Ints, Snapshot
from epp.plugins.signals import EndpointColumn
from epp.scheduling.contract import BuildContext, Cycle, NoParameters, PluginType

ROLE_LABEL = "llm-d.ai/role"
DECODE_ROLES = frozenset({"decode", "prefill-decode", "both", "encode-prefill-decode"})
PREFILL_ROLES = frozenset({"prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"})
ENCODE_ROLES = frozenset({"encode", "encode-prefill", "encode-prefill-decode"})


class Expression(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    key: Annotated[str, Meta(min_length=1, description="label")]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"], Meta(description="as in Kubernetes label selectors")
    ]
    values: Annotated[tuple[str, ...], Meta(description="for In and NotIn")] = ()


class SelectorParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    match_labels: Annotated[dict[str, str], Meta(description="labels that must have these values")] = (
        msgspec.field(default_factory=dict)
    )
    match_expressions: Annotated[tuple[Expression, ...], Meta(description="all must hold")] = ()


class ByLabelParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    label: Annotated[str, Meta(min_length=1, description="label")]
    valid_values: Annotated[tuple[str, ...], Meta(description="values that are kept")] = ()
    allows_no_label: Annotated[bool, Meta(description="also keep endpoints without the label")] = False


class LabelFilter:
    """Keeps endpoints whose labels satisfy a condition; evaluated once for a pool, not for a request."""

    def __init__(self, matches: Callable[[Mapping[str, str]], bool]) -> None:
        self._column = EndpointColumn(lambda endpoint: matches(endpoint.labels), np.bool_)

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        return self._column.of(cycle.snapshot)[rows]


def selects(selector: SelectorParameters) -> Callable[[Mapping[str, str]], bool]:
    """A Kubernetes label selector as a predicate; an empty one selects everything.

    As there, NotIn also holds where the label is missing.
    """
    wanted = selector.match_labels
    expressions = selector.match_expressions

    def matches(labels: Mapping[str, str]) -> bool:
        if any(labels.get(key) != value for key, value in wanted.items()):
            return False
        for expression in expressions:
            value = labels.get(expression.key)
            if expression.operator == "In":
                held = value in expression.values
            elif expression.operator == "NotIn":
                held = value not in expression.values
            elif expression.operator == "Exists":
                held = value is not None
            else:
                held = value is None
            if not held:
                return False
        return True

    return matches


class HeaderLabelParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    header_name: Annotated[str, Meta(min_length=1, description="request header with the wanted value")]
    label_key: Annotated[str, Meta(min_length=1, description="label that is compared with it")]


class HeaderLabelAffinity:
    """1 where the label equals the header, else 0; 0 for all without the header."""

    def __init__(self, parameters: HeaderLabelParameters) -> None:
        self._header = parameters.header_name.lower()
        self._label = parameters.label_key
        self._endpoints: tuple[Endpoint, ...] | None = None
        self._rows: dict[str, list[int]] = {}

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        column = np.zeros(len(cycle.snapshot))
        wanted = cycle.request.headers.get(self._header)
        if wanted:
            column[self._by_value(cycle.snapshot).get(wanted, [])] = 1.0
        return column[rows]

    def _by_value(self, snapshot: Snapshot) -> Mapping[str, list[int]]:
        if snapshot.endpoints is not self._endpoints:
            self._rows = {}
            for row, endpoint in enumerate(snapshot.endpoints):
                value = endpoint.labels.get(self._label)
                if value is not None:
                    self._rows.setdefault(value, []).append(row)
            self._endpoints = snapshot.endpoints
        return self._rows


def _selector(parameters: SelectorParameters, context: BuildContext) -> LabelFilter:
    for expression in parameters.match_expressions:
        listed = expression.operator in ("In", "NotIn")
        if listed != bool(expression.values):
            raise ValueError(
                f"matchExpressions: {expression.operator} of {expression.key!r} "
                + ("needs values" if listed else "takes no values")
            )
    return LabelFilter(selects(parameters))


def _by_label(parameters: ByLabelParameters, context: BuildContext) -> LabelFilter:
    if not parameters.valid_values and not parameters.allows_no_label:
        raise ValueError("needs validValues or allowsNoLabel: true, else it would drop every endpoint")
    label, valid, allows = parameters.label, frozenset(parameters.valid_values), parameters.allows_no_label
    return LabelFilter(lambda labels: labels[label] in valid if label in labels else allows)


def _role(roles: frozenset[str], *, unlabelled: bool) -> Callable[[NoParameters, BuildContext], LabelFilter]:
    def matches(labels: Mapping[str, str]) -> bool:
        role = labels.get(ROLE_LABEL)
        return unlabelled if role is None else role in roles

    return lambda parameters, context: LabelFilter(matches)


def _affinity(parameters: HeaderLabelParameters, context: BuildContext) -> HeaderLabelAffinity:
    return HeaderLabelAffinity(parameters)


_SELECTOR = "label-selector-filter"
PLUGINS = (
    PluginType(_SELECTOR, SelectorParameters, _selector, "keeps endpoints that a label selector matches"),
    PluginType(
        "by-label-selector",
        SelectorParameters,
        _selector,
        "keeps endpoints that a label selector matches",
        deprecated_for=_SELECTOR,
    ),
    PluginType(
        "by-label",
        ByLabelParameters,
        _by_label,
        "keeps endpoints with one of the values of a label",
        deprecated_for=_SELECTOR,
    ),
    PluginType("decode-filter", NoParameters, _role(DECODE_ROLES, unlabelled=True), "keeps decode workers"),
    PluginType(
        "prefill-filter", NoParameters, _role(PREFILL_ROLES, unlabelled=False), "keeps prefill workers"
    ),
    PluginType("encode-filter", NoParameters, _role(ENCODE_ROLES, unlabelled=False), "keeps encode workers"),
    PluginType(
        "header-label-affinity-scorer",
        HeaderLabelParameters,
        _affinity,
        "prefers endpoints whose label equals a request header",
        alpha=True,
    ),
)
