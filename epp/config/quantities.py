"""How durations and amounts are written: Go's durations, Kubernetes' quantities. One place for both."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, TypeAlias

from epp.config.decode import Spelling
from epp.domain.units import duration_s

_QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d{1,3})?")
_FACTOR = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
    "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
UNLIMITED = -1
"""What the word `unlimited` becomes."""


def quantity(written: object) -> int:
    """A whole amount: `1000`, `1G`, `64Mi`, `500m` (rounded up, as Kubernetes does). Raises ValueError."""
    hint = f"{written!r} is not a quantity; write it like 5000, 1G or 64Mi"
    if isinstance(written, bool) or not isinstance(written, int | float | str):
        raise ValueError(hint)
    match = _QUANTITY.fullmatch(str(written))
    if match is None:
        raise ValueError(hint)
    number, suffix = Decimal(match[1]), match[2] or ""
    amount = number * (_FACTOR[suffix] if suffix in _FACTOR else Decimal(10) ** int(suffix[1:]))
    if amount < 0:
        raise ValueError(f"{written!r} is negative")
    if amount >= 2**63:
        raise ValueError(f"{written!r} is more than a 64-bit number holds")
    return int(amount.to_integral_value(rounding="ROUND_CEILING"))


def limit(written: object) -> int:
    """A quantity, or UNLIMITED for `unlimited`."""
    return UNLIMITED if written == "unlimited" else quantity(written)


def positive_quantity(written: object) -> int:
    """A quantity of at least 1."""
    amount = quantity(written)
    if amount < 1:
        raise ValueError(f"{written!r} must be at least 1")
    return amount


def duration(written: object) -> float:
    """Seconds of a Go duration that is not negative. A bare 0 is a duration, other bare numbers are not."""
    if isinstance(written, int | float) and not isinstance(written, bool) and written == 0:
        return 0.0
    if not isinstance(written, str):
        raise ValueError(f"{written!r} is not a duration; write it like 200ms, 2s or 1m30s")
    seconds = duration_s(written)
    if seconds < 0:
        raise ValueError(f"{written!r} is negative")
    return seconds


def positive_duration(written: object) -> float:
    """Seconds of a Go duration above 0."""
    seconds = duration(written)
    if seconds <= 0:
        raise ValueError(f"{written!r} must be more than 0")
    return seconds


Duration: TypeAlias = Annotated[float, Spelling("duration", duration)]
PositiveDuration: TypeAlias = Annotated[float, Spelling("duration > 0", positive_duration)]
Quantity: TypeAlias = Annotated[int, Spelling("quantity", quantity)]
PositiveQuantity: TypeAlias = Annotated[int, Spelling("quantity > 0", positive_quantity)]
Limit: TypeAlias = Annotated[int, Spelling("quantity or unlimited", limit)]
