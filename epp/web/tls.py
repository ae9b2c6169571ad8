"""TLS of the metrics listener: certificate and client CA from files, taken up again when they change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

logger = logging.getLogger("epp.web.tls")


class ServerTls:
    """`context` for the listener. Files are looked at on each handshake; a bad new pair keeps the old one.

    With a client CA a certificate that a client shows must be signed by it; whether one must be shown is
    for the pages to say, since probes of the health pages show none.
    """

    def __init__(self, cert_dir: Path, client_ca: Path | None = None) -> None:
        """Raises OSError or ssl.SSLError for files that cannot be used."""
        self._certificate = cert_dir / "tls.crt"
        self._key = cert_dir / "tls.key"
        self._client_ca = client_ca
        self._seen = self._stamp()
        self._current = self._load()
        self.context = self._load()
        self.context.sni_callback = self._on_hello

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key)
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        files = [self._certificate, self._key, *([self._client_ca] if self._client_ca else [])]
        stats = [file.stat() for file in files]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def _on_hello(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """OpenSSL calls this for every handshake, with or without a server name."""
        try:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                self._current = self._load()
                logger.info("took up the new certificate in %s", self._certificate.parent)
        except OSError as error:  # ssl.SSLError is one
            logger.error("kept the old certificate, the new one cannot be used: %s", error)
        connection.context = self._current
