"""Faults on command: how a model server misbehaves, and how it is told to."""

from __future__ import annotations

import math

import msgspec


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All off. Rates are shares of generation requests, 0 to 1."""

    slow: float = 1.0
    """Factor on the time of every step; above 0."""
    error_rate: float = 0.0
    """Answered 500 at once."""
    hang_rate: float = 0.0
    """Taken and never answered."""
    drop_rate: float = 0.0
    """Connection cut in the middle of the answer."""
    stall_rate: float = 0.0
    """Nothing more after a few tokens, the connection stays open."""
    drop_after: int = 3
    """Tokens before the cut or the stall; answers no longer than that are complete."""
    dead: bool = False
    """Listener and all connections closed; alive again with an empty cache when this turns false."""
    dead_for_s: float = 0.0
    """With `dead`: alive again by itself after this time; 0 for never."""
    stall_metrics: bool = False
    """Scrapes are taken and never answered."""
    lies: dict[str, float] = msgspec.field(default_factory=dict)
    """Gauge (`running`, `waiting` or `kv`) to the value shown instead: number, "nan", "inf", "-inf"."""


LIES = frozenset({"running", "waiting", "kv"})


def changed(faults: Faults, update: dict[str, object]) -> Faults:
    """The faults with some fields set. Raises ValueError in words for the one who asked."""
    lies = update.get("lies")
    if isinstance(lies, dict):
        try:
            update = update | {"lies": {str(name): float(value) for name, value in lies.items()}}
        except (TypeError, ValueError):
            raise ValueError(f"lies must be numbers: {lies}") from None
    try:
        new = msgspec.convert(msgspec.to_builtins(faults) | update, Faults, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    if not (0 < new.slow <= 1e6):
        raise ValueError("slow must be above 0 and at most 1e6")
    for name in ("error_rate", "hang_rate", "drop_rate", "stall_rate"):
        if not 0 <= getattr(new, name) <= 1:
            raise ValueError(f"{name} must be in 0 .. 1")
    if new.drop_after < 1 or not 0 <= new.dead_for_s < math.inf:
        raise ValueError("drop_after must be at least 1, dead_for_s finite and not negative")
    unknown = new.lies.keys() - LIES
    if unknown:
        raise ValueError(f"no such gauge to lie about: {sorted(unknown)}; there are {sorted(LIES)}")
    return new


def parse(words: str) -> dict[str, object]:
    """`slow=2,error_rate=0.1,lies.kv=nan` as an update. Raises ValueError."""
    update: dict[str, object] = {}
    lies: dict[str, object] = {}
    for word in words.split(","):
        name, equals, value = word.strip().partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not NAME=VALUE")
        if name.startswith("lies."):
            lies[name.removeprefix("lies.")] = value
        else:
            update[name] = value
    if lies:
        update["lies"] = lies
    return update
