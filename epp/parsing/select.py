"""Which parser reads a request: the longest claimed path suffix, else the fallback, else 400."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from epp.domain.errors import Reason, Refused
from epp.domain.request import Api, Body, Request, RequestHead, Scanned
from epp.parsing.anthropic import anthropic_parser
from epp.parsing.bodiless import is_bodiless, parse_bodiless
from epp.parsing.body import MODEL_HEADER
from epp.parsing.engines import sglanghttp_parser, vllmhttp_parser
from epp.parsing.openai import openai_parser
from epp.parsing.parser import BodyParser, Parser
from epp.parsing.scanned import SCANNABLE, parse_scanned
from epp.parsing.vllmgrpc import vllmgrpc_parser

PATH_HEADERS = (":path", "x-original-path", "x-forwarded-path")
DEFAULT_PATH = "/v1/completions"
MAX_REMEMBERED_PATHS = 512


def request_path(headers: Mapping[str, str]) -> str:
    """The path that selects the parser, without its query: first of three headers that is set."""
    for name in PATH_HEADERS:
        if path := headers.get(name):
            return path.partition("?")[0]
    return DEFAULT_PATH


def parse_opaque(head: RequestHead, body: Body, truncated: bool) -> Request:
    """Nothing of the body is known; the model only if a gateway before us has named it."""
    model = head.headers.get(MODEL_HEADER, "")
    return Request(head=head, api=Api.OPAQUE, model=model, target_model=model, size_bytes=len(body))


def passthrough_parser() -> Parser:
    return Parser("passthrough-parser", fallback=parse_opaque)


PARSERS: Mapping[str, Callable[[], Parser]] = {
    "openai-parser": openai_parser,
    "anthropic-parser": anthropic_parser,
    "vllmhttp-parser": vllmhttp_parser,
    "sglanghttp-parser": sglanghttp_parser,
    "vllmgrpc-parser": vllmgrpc_parser,
    "passthrough-parser": passthrough_parser,
}
"""By the type that configurations name."""


def default_parsers() -> tuple[Parser, ...]:
    """Those of a configuration that names none."""
    return openai_parser(), anthropic_parser(), vllmhttp_parser(), passthrough_parser()


class Parsers:
    """The parsers of one configuration, in its order.

    Of two of one type the first counts. One without claims takes every path that is left, and those after it
    are never asked; where there is none, a parser that has claims may still take what is left (gRPC).
    """

    def __init__(self, parsers: Iterable[Parser]) -> None:
        claims: dict[str, BodyParser] = {}
        seen: set[str] = set()
        self.fallback: BodyParser | None = None
        spare: BodyParser | None = None
        for parser in parsers:
            if parser.type_name in seen:
                continue
            seen.add(parser.type_name)
            for suffix, parse in parser.claims.items():
                claims.setdefault(suffix, parse)
            if parser.fallback is not None and not parser.claims:
                self.fallback = parser.fallback
                break
            spare = spare or parser.fallback
        self.fallback = self.fallback or spare
        self._claims = sorted(claims.items(), key=lambda claim: -len(claim[0]))
        self._by_path: dict[str, BodyParser] = {}

    def parse(
        self, head: RequestHead, body: Body, *, truncated: bool = False, scanned: Scanned | None = None
    ) -> Request:
        """Raises Refused; for a cut body only when no parser takes its path: the engine judges the whole."""
        path = head.path
        if is_bodiless(head, path):
            return parse_bodiless(head, path, len(body))
        parse = self._by_path.get(path) or self._select(path)
        if parse is None:
            raise Refused(Reason.UNSUPPORTED_PATH, f"No parser is configured for the path {path[:200]}.")
        try:
            if scanned is not None and parse in SCANNABLE:
                return parse_scanned(parse, head, body, scanned)
            return parse(head, body, truncated)
        except Refused:
            if not truncated:
                raise
        except RecursionError:  # a part that was left undecoded at first, decoded from deeper in our stack
            if not truncated:
                raise Refused(Reason.MALFORMED, "The request body is nested too deeply.") from None
        request = parse(head, b"", True)
        request.size_bytes = len(body)
        return request

    @property
    def scannable(self) -> dict[str, Api]:
        """By path suffix, longest first: which bodies may be scanned while they come in."""
        return {suffix: SCANNABLE[parse] for suffix, parse in self._claims if parse in SCANNABLE}

    def _select(self, path: str) -> BodyParser | None:
        parse = next((parse for suffix, parse in self._claims if path.endswith(suffix)), self.fallback)
        if parse is not None and len(self._by_path) < MAX_REMEMBERED_PATHS:
            self._by_path[path] = parse
        return parse
