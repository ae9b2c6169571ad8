"""TLS towards engines: contexts made once for all connections, and made again when a file has changed.

Certificates that live for a day or an hour are replaced in their files; connections that are made after that
use the new ones, and those that are open go on. A file that cannot be used changes nothing.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MAX_CONTEXTS: Final = 1000
"""Different settings, of all pools; one that was not used for longest is made again when it is needed."""
_log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Paths are PEM files; empty ones are not read. Without `ca` the system's authorities count."""

    verify: bool
    ca: str = ""
    cert: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """Looks at the files; costs microseconds where they are as they were. Raises OSError (ssl.SSLError is
        one) when one cannot be used, unless it could be before."""
        return _contexts.of(self)

    def stamp(self) -> Stamp:
        """Raises OSError."""
        stats = [os.stat(path) for path in (self.ca, self.cert, self.key) if path]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def load(self) -> ssl.SSLContext:
        """Raises OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whatever is named is believed, a leaf too
        if self.ca:
            context.load_verify_locations(self.ca)
        elif self.verify:
            context.load_default_certs()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context


class _Contexts:
    """A memo."""

    def __init__(self) -> None:
        self._held: OrderedDict[ClientTls, tuple[Stamp, ssl.SSLContext]] = OrderedDict()

    def of(self, tls: ClientTls) -> ssl.SSLContext:
        held = self._held.get(tls)
        stamp: Stamp = ()  # of no files: one that cannot be looked at is told of once, like a wrong one
        try:
            stamp = tls.stamp()
            if held is not None and held[0] == stamp:
                self._held.move_to_end(tls)
                return held[1]
            context = tls.load()
        except OSError as error:
            if held is None:
                raise
            if held[0] != stamp:
                self._held[tls] = stamp, held[1]
                _log.error(
                    "TLS to engines goes on with the files before, the new ones cannot be used: %s", error
                )
            return held[1]
        if held is not None:
            _log.info("took up changed TLS files for connections to engines: %s", tls.cert or tls.ca)
        self._held[tls] = stamp, context
        self._held.move_to_end(tls)
        if len(self._held) > MAX_CONTEXTS:
            self._held.popitem(last=False)
        return context


_contexts = _Contexts()
