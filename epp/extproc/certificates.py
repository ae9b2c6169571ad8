"""Certificates of the gRPC listener: a directory with tls.crt and tls.key, or a self-signed pair."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp.extproc.transport import Tls

log = logging.getLogger("epp.extproc")

_YEARS = 10


def serving(secure: bool, directory: Path | None) -> Callable[[], Tls] | None:
    """What to serve with: None for plain text, the pair in `directory` as it is when asked, else a new one.

    Raises ValueError for a directory that cannot be used now.
    """
    if not secure:
        return None
    if directory is None:
        pair = self_signed()
        return lambda: pair
    source = from_directory(directory)
    try:
        source()
    except (OSError, ValueError) as error:
        raise ValueError(f"--cert-path {directory}: {error}") from error
    return source


def self_signed() -> Tls:
    """A new P-256 pair, good for ten years: gateways do not verify it (they skip verification by default)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Inference Ext")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Tls(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def from_directory(directory: Path) -> Callable[[], Tls]:
    """A source that reads tls.crt and tls.key when one of them has changed and keeps the last good pair.

    The first call raises OSError or ValueError when they cannot be used.
    """
    kept: Tls | None = None
    seen: tuple[int, int] = (0, 0)

    def read() -> Tls:
        nonlocal kept, seen
        certificate, key = directory / "tls.crt", directory / "tls.key"
        try:
            stamps = (certificate.stat().st_mtime_ns, key.stat().st_mtime_ns)
            if kept is None or stamps != seen:
                kept, seen = _checked(certificate.read_bytes(), key.read_bytes()), stamps
        except (OSError, ValueError) as error:
            if kept is None:
                raise
            log.warning("the certificate in %s cannot be used, the last one is kept: %s", directory, error)
        return kept

    return read


def _checked(certificate: bytes, key: bytes) -> Tls:
    """Raises ValueError unless the two belong together."""
    parsed = x509.load_pem_x509_certificate(certificate)
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"tls.key cannot be used: {error}") from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != parsed.public_key().public_bytes(*form):
        raise ValueError("tls.key does not belong to tls.crt")
    return Tls(certificate, key)
