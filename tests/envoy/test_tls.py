"""deploy/envoy/standalone-tls.yaml: TLS between Envoy and epp, the picker's certificate checked."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .rig import chat, rig

CONFIG = "standalone-tls.yaml"


def _issue(
    name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for that DNS name; its own issuer if none is given."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    by, signer = issuer or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    return builder.sign(signer, hashes.SHA256()), key


def _write(directory: Path, name: str) -> Path:
    """ca.crt, and tls.crt and tls.key for `name` signed by it. The path of ca.crt."""
    directory.mkdir()
    ca, ca_key = _issue("test authority", None)
    certificate, key = _issue(name, (ca.subject, ca_key))
    pem = serialization.Encoding.PEM
    (directory / "ca.crt").write_bytes(ca.public_bytes(pem))
    (directory / "tls.crt").write_bytes(certificate.public_bytes(pem))
    (directory / "tls.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "ca.crt"


async def test_a_picker_with_the_right_certificate_is_asked(tmp_path: Path) -> None:
    ca = _write(tmp_path / "tls", "epp")
    flags = ["--cert-path", str(ca.parent)]
    async with rig(tmp_path, CONFIG, engines=2, values={"ca": str(ca)}, flags=flags, secure=True) as stack:
        async with stack.client.post("/v1/chat/completions", json=chat("x" * 200_000)) as answer:
            assert answer.status == 200, await answer.text()
        await stack.idle()


async def test_a_picker_that_is_not_who_it_should_be_is_not_trusted(tmp_path: Path) -> None:
    right = _write(tmp_path / "right", "epp")
    wrong = _write(tmp_path / "wrong", "epp")
    flags = ["--cert-path", str(wrong.parent)]
    async with rig(tmp_path, CONFIG, engines=2, values={"ca": str(right)}, flags=flags, secure=True) as stack:
        async with stack.client.post("/v1/chat/completions", json=chat()) as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["type"] == "gateway_error"
        assert sum(stack.by_port().values()) == 0
