"""Small answers that several pages share: JSON, errors, what a reader accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from aiohttp import web


def as_json(value: object) -> web.Response:
    return web.Response(
        body=json.dumps(value, default=str).encode("utf-8", "replace"), content_type="application/json"
    )


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding names gzip (or anything) with a quality above 0."""
    for part in header.lower().split(","):
        coding, _, quality = part.partition(";")
        if coding.strip() in ("gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def printable(text: str) -> str:
    return "".join(c if " " < c <= "~" else "?" for c in text)


def wants_text(request: web.Request) -> bool:
    asked = request.query.get("format")
    return asked == "text" if asked else request.headers.get("Accept", "").startswith("text/plain")


def whole(request: web.Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name, "")
    if text and not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= most):
        raise web.HTTPBadRequest(reason=f"{name} must be a whole number up to {most}")
    return int(text) if text else default


def grid(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines, each column as wide as it must be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
