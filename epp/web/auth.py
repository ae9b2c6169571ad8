"""Who may read the metrics and debug pages: a bearer token out of a file, or one that a cluster knows."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path
from typing import Protocol

from epp.domain.access import Access

logger = logging.getLogger("epp.web.auth")

TOKEN_BYTES_MAX = 16 << 10


class Reviewer(Protocol):
    """Knows whose tokens may read what."""

    async def review(self, token: str, verb: str, path: str) -> Access:
        """`token` is empty where none was shown; `verb` is in lower case."""


def bearer(authorization: str | None) -> str:
    """The token in the value of an Authorization header; empty where there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class TokenFile:
    """The token that a file holds, read again when the file changes.

    While the file cannot be read or is empty nobody is let in: a lost secret must not open the door.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = b""
        self._refresh()

    def allows(self, authorization: str | None) -> bool:
        """Whether the value of an Authorization header carries the token; compared in constant time."""
        self._refresh()
        given = bearer(authorization).encode("utf-8", "replace")
        return bool(self._token) and hmac.compare_digest(given, self._token)

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return
            with self._path.open("rb") as file:
                token = file.read(TOKEN_BYTES_MAX + 1).strip()
        except OSError as error:
            if self._token or self._seen is None:
                logger.error("the metrics token %s cannot be read: %s", self._path, error.strerror)
            self._seen, self._token = (0, 0, 0), b""
            return
        self._seen = seen
        self._token = token if len(token) <= TOKEN_BYTES_MAX else b""
        if not self._token:
            logger.error("the metrics token file %s is empty or too long; nobody is let in", self._path)
