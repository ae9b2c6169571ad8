"""`trust` of the block `epp:`: whose control headers are believed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from epp.admission.trust import FAIRNESS_ID_CHARS, Taken, TrustSettings
from epp.config.decode import FieldError
from epp.domain.controls import (
    FAIRNESS_HEADERS,
    OBJECTIVE_HEADERS,
    SELECTION_HEADER,
    TPOT_HEADERS,
    TTFT_HEADERS,
    TTL_HEADER,
)

HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
MAX_SECRET_BYTES = 4096
_CONTROLS = (
    *OBJECTIVE_HEADERS, *FAIRNESS_HEADERS, TTL_HEADER, *TTFT_HEADERS, *TPOT_HEADERS, SELECTION_HEADER,
)  # fmt: skip
_NEEDED = frozenset({"host", "content-length", "content-type", "x-request-id", "authorization"})
"""Headers that engines and we cannot do without; a marker and a secret are taken away."""

From = Literal["clients", "marker", "secret", "strip"]


class _Block(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


def _check_header(name: str) -> None:
    if not HEADER.fullmatch(name.lower()):
        raise FieldError("header", f"{name!r} is not the name of a header")
    if name.lower() in _CONTROLS or name.lower() in _NEEDED:
        raise FieldError("header", f"{name!r} has another meaning already; choose a name of its own")


class Marker(_Block, frozen=True):
    """A header that the gateway sets, and takes away from what comes in."""

    header: str
    value: str = ""
    """Empty for any."""

    def __post_init__(self) -> None:
        _check_header(self.header)


class Secret(_Block, frozen=True):
    """A header that holds what only we and the gateway know."""

    header: str
    file: str = ""
    """A secret a line; each will do."""
    env: str = ""
    """Name of an environment variable, instead of a file."""

    def __post_init__(self) -> None:
        _check_header(self.header)
        if bool(self.file) == bool(self.env):
            raise ValueError("a secret is read from a 'file' or from 'env', one of them")

    def read(self, environ: Mapping[str, str]) -> tuple[bytes, ...]:
        """Raises ValueError, without a word of the secret."""
        if self.env:
            where = f"environment variable {self.env}"
            data = environ.get(self.env, "").encode(errors="surrogateescape")
        else:
            where = self.file
            try:
                with Path(self.file).open("rb") as file:
                    data = file.read(MAX_SECRET_BYTES + 1)
            except OSError as error:
                raise ValueError(f"trust.secret: {where} cannot be read: {error.strerror}") from error
        if len(data) > MAX_SECRET_BYTES:
            raise ValueError(f"trust.secret: {where} is longer than {MAX_SECRET_BYTES} bytes")
        lines = tuple(line.strip() for line in data.splitlines() if line.strip())
        if not lines:
            raise ValueError(f"trust.secret: {where} holds no secret")
        return lines


class Trust(_Block, frozen=True):
    """What is not named here is stripped."""

    objective: From = "strip"
    fairness_id: From = "strip"
    ttl: From = "strip"
    slo: From = "strip"
    test_selection: From = "strip"
    marker: Marker | None = None
    secret: Secret | None = None
    tenants: list[str] | None = None
    """Known fairness ids; others share the default flow and have no priority above the default."""
    max_fairness_ids: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Distinct ids that are told apart at a time; others share the default flow."""

    def __post_init__(self) -> None:
        for name in ("objective", "fairness_id", "ttl", "slo", "test_selection"):
            word = getattr(self, name)
            if word in ("marker", "secret") and getattr(self, word) is None:
                field = "".join(part.title() if i else part for i, part in enumerate(name.split("_")))
                raise FieldError(field, f"'{word}' needs the field '{word}' that says which header")
        if self.tenants is not None and self.fairness_id == "strip":
            raise FieldError("tenants", "no tenant is known while 'fairnessId' is 'strip'")
        if any(not 0 < len(tenant) <= FAIRNESS_ID_CHARS for tenant in self.tenants or ()):
            raise FieldError("tenants", f"a fairness id has 1 to {FAIRNESS_ID_CHARS} characters")

    def settings(self, environ: Mapping[str, str]) -> TrustSettings:
        """With the secret, which is read now. Raises ValueError where there is none."""
        marker, secret = self.marker, self.secret
        return TrustSettings(
            objective=Taken(self.objective),
            fairness_id=Taken(self.fairness_id),
            ttl=Taken(self.ttl),
            slo=Taken(self.slo),
            test_selection=Taken(self.test_selection),
            marker=marker.header.lower() if marker else "",
            marker_value=marker.value if marker else "",
            secret=secret.header.lower() if secret else "",
            secrets=secret.read(environ) if secret else (),
            tenants=None if self.tenants is None else frozenset(self.tenants),
        )
