"""Objects of `kind: InferenceModelRewrite`: what their fields mean, and what may stand in them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from epp.config.objects import Block, Document, Kind, Spec
from epp.config.problems import Path, Report, nearest
from epp.domain.rewrite import Rewrite, RewriteRule, RewriteTarget

HASH_HEADER = "llm-d.ai/rewrite-hash-header"
"""Annotation: the request header whose value chooses among weighted targets. Of our making."""
MAX_RULES = 1000
MAX_MATCHES = 1000
"""Of one rule."""
MAX_TARGETS = 100
"""Of one rule: each costs half a microsecond of a request whose target is chosen by a header."""
MAX_WEIGHT = 1_000_000
MAX_MODEL_CHARS = 4096
_OURS = "llm-d.ai/rewrite-"
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")

Model = Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_CHARS)]
Weight = Annotated[int, Meta(ge=1, le=MAX_WEIGHT)]


class _ModelMatch(Block, frozen=True):
    value: Model
    type: Literal["Exact"] = "Exact"


class _Match(Block, frozen=True):
    model: _ModelMatch


class _Target(Block, frozen=True):
    model_rewrite: Model
    weight: Weight | None = None


class _Rule(Block, frozen=True):
    targets: Annotated[list[_Target], Meta(min_length=1, max_length=MAX_TARGETS)]
    matches: Annotated[list[_Match], Meta(max_length=MAX_MATCHES)] = field(default_factory=list)


class _Spec(Spec, frozen=True):
    rules: Annotated[list[_Rule], Meta(max_length=MAX_RULES)]


class _Document(Document, kw_only=True, frozen=True):
    spec: _Spec


def _build(document: _Document, at: Path, report: Report) -> Rewrite:
    return Rewrite(
        name=document.metadata.name,
        rules=tuple(
            _rule(rule, (*at, "spec", "rules", i), report) for i, rule in enumerate(document.spec.rules)
        ),
        created_at=_created_at(document.metadata.creation_timestamp, at, report),
        hash_header=_hash_header(document.metadata.annotations or {}, at, report),
    )


def _rule(rule: _Rule, at: Path, report: Report) -> RewriteRule:
    for i, match in enumerate(rule.matches):
        _plain(match.model.value, (*at, "matches", i, "model", "value"), report)
    for i, target in enumerate(rule.targets):
        _plain(target.model_rewrite, (*at, "targets", i, "modelRewrite"), report)
    weighted = sum(target.weight is not None for target in rule.targets)
    if 0 < weighted < len(rule.targets):
        words = "some have a weight and some have none: those without get no requests; weigh all, or none"
        report.notice((*at, "targets"), words)
    return RewriteRule(
        models=tuple(match.model.value for match in rule.matches),
        targets=tuple(RewriteTarget(target.model_rewrite, target.weight) for target in rule.targets),
    )


def _plain(model: str, at: Path, report: Report) -> None:
    """A form's field has one line, and logs and headers have none for what cannot be printed."""
    if not model.isprintable():
        report.error(at, "a model's name has printable characters only, on one line")


def _created_at(value: Any, at: Path, report: Report) -> str:
    if value is None:
        return ""
    at = (*at, "metadata", "creationTimestamp")
    try:
        created = datetime.fromisoformat(value)
        if created.tzinfo is None:
            raise ValueError
        return created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (TypeError, ValueError, OverflowError):
        report.error(at, "expected an instant such as '2026-01-31T23:59:59Z'")
        return ""


def _hash_header(annotations: dict[str, Any], at: Path, report: Report) -> str:
    at = (*at, "metadata", "annotations")
    for key in annotations:
        if key.startswith(_OURS) and key != HASH_HEADER:
            report.notice((*at, key), f"not known{nearest(key, [HASH_HEADER])}", key=True)
    header = annotations.get(HASH_HEADER, "")
    if header == "" or (isinstance(header, str) and _HEADER.fullmatch(header)):
        return str(header).lower()
    report.error((*at, HASH_HEADER), "expected the name of a request header, such as 'x-user-id'")
    return ""


REWRITE = Kind("InferenceModelRewrite", "rewrite", _Document, _build)
