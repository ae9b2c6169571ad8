"""What a parser is: a table from path suffix to a function that turns one body into a Request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from epp.domain.request import Body, Request, RequestHead

BodyParser: TypeAlias = Callable[[RequestHead, Body, bool], Request]
"""(head, body, truncated) -> Request; raises Refused. `truncated`: the body is only a first part."""

NO_CLAIMS: Mapping[str, BodyParser] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Parser:
    """One wire format family. `type_name` is what configurations write."""

    type_name: str
    claims: Mapping[str, BodyParser] = field(default_factory=lambda: NO_CLAIMS)
    """By path suffix; the longest suffix of all parsers wins."""
    fallback: BodyParser | None = None
    """Takes every path that no parser claims."""
    h2c_only: bool = False
    """Its requests are gRPC: model servers that speak HTTP/1.1 alone cannot take them."""
