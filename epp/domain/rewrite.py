"""What an operator says about models' names: who asks for this one gets that one, or a share of several."""

from __future__ import annotations

from msgspec import Struct


class RewriteTarget(Struct, frozen=True, gc=False):
    """A model that requests may be sent to."""

    model: str
    weight: int | None = None
    """Its share among the targets of its rule; None where not said."""


class RewriteRule(Struct, frozen=True, gc=False):
    """One rule of a rewrite. It has targets."""

    models: tuple[str, ...]
    """Names that clients use, exactly; none: every name, and requests without one (a generic rule)."""
    targets: tuple[RewriteTarget, ...]


class Rewrite(Struct, frozen=True, gc=False):
    """One InferenceModelRewrite."""

    name: str
    rules: tuple[RewriteRule, ...]
    """Earlier ones come first."""
    created_at: str = ""
    """UTC as `2026-01-31T23:59:59Z`, which sorts by time; empty where not known, which counts as oldest."""
    hash_header: str = ""
    """The request header, in lower case, whose value chooses among targets; empty: chance does."""
