"""May this caller read that page? An answer, for whoever asks and whoever knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Access:
    status: Literal[200, 401, 403, 503]
    """Yes; who is that; no; it cannot be found out now. As HTTP says it."""
    why: str = ""
    """In words for the caller, without secrets."""


ALLOWED = Access(200)
