"""TLS to engines: who is believed, what is shown, and files that are replaced while we run."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp.datalayer.clienttls import ClientTls
from epp.datalayer.connection import HttpSource

LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
ELSEWHERE = x509.IPAddress(ipaddress.ip_address("10.0.0.1"))
ENGINE = x509.DNSName("engine.example.com")


class Authority:
    """Signs throw-away certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.crt"
        made = self._sign(self._name, self._key.public_key(), ca=True)
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, *sans: x509.GeneralName, ca: bool = False
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def pair(self, name: str, *sans: x509.GeneralName) -> tuple[bytes, bytes]:
        """Certificate and key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return (
            self._sign(subject, key.public_key(), *sans).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def write(self, folder: Path, name: str, *sans: x509.GeneralName) -> None:
        folder.mkdir(exist_ok=True)
        for file, data in zip(("tls.crt", "tls.key"), self.pair(name, *sans), strict=True):
            (folder / "new").write_bytes(data)
            os.replace(folder / "new", folder / file)


@asynccontextmanager
async def engine(
    folder: Path, trusts: Authority | None = None
) -> AsyncIterator[tuple[int, asyncio.Queue[str]]]:
    """Says who came: the name in the client's certificate, empty without one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    if trusts is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(trusts.file)
    came: asyncio.Queue[str] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = writer.get_extra_info("peercert") or {}
        came.put_nowait(dict(pair[0] for pair in shown.get("subject", ())).get("commonName", ""))
        writer.write(b"hello")
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1], came
    finally:
        listening.close()


async def greets(source: HttpSource, port: int) -> bool:
    """Whether a connection as the scraper makes it gets through. Raises ssl.SSLError where it does not trust
    the engine."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=source.tls(), server_hostname=source.server_hostname("127.0.0.1")
    )
    try:
        return await reader.read() == b"hello"
    except (ssl.SSLError, ConnectionError):  # with TLS 1.3 the other side refuses after the handshake
        return False
    finally:
        writer.close()


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


@pytest.mark.parametrize(
    ("san", "name", "believed"),
    [
        (LOOPBACK, "", True),
        (ELSEWHERE, "", False),
        (ENGINE, "", False),
        (ENGINE, "engine.example.com", True),
        (ENGINE, "other.example.com", False),
        (LOOPBACK, "engine.example.com", False),
    ],
)
async def test_whom_a_certificate_is_for(
    tmp_path: Path, san: x509.GeneralName, name: str, believed: bool
) -> None:
    authority = Authority(tmp_path, "ca")
    authority.write(tmp_path / "engine", "engine", san)
    source = HttpSource(
        scheme="https", insecure_skip_verify=False, ca_cert_path=str(authority.file), server_name=name
    )
    async with engine(tmp_path / "engine") as (port, _):
        if believed:
            assert await greets(source, port)
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
                await greets(source, port)


async def test_only_the_named_authority_is_believed(tmp_path: Path) -> None:
    one, other = Authority(tmp_path, "one"), Authority(tmp_path, "other")
    one.write(tmp_path / "engine", "engine", LOOPBACK)
    async with engine(tmp_path / "engine") as (port, _):
        for ca in (str(other.file), ""):
            verifying = HttpSource(scheme="https", insecure_skip_verify=False, ca_cert_path=ca)
            with pytest.raises(ssl.SSLCertVerificationError):
                await greets(verifying, port)
            assert await greets(HttpSource(scheme="https", ca_cert_path=ca), port)


async def test_an_engine_that_demands_a_certificate(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    theirs.write(tmp_path / "engine", "engine", LOOPBACK)
    ours.write(tmp_path / "epp", "epp")
    theirs.write(tmp_path / "wrong", "wrong")

    def source(folder: Path | None) -> HttpSource:
        return HttpSource(
            scheme="https",
            insecure_skip_verify=False,
            ca_cert_path=str(theirs.file),
            client_cert_path=str(folder / "tls.crt") if folder else "",
            client_key_path=str(folder / "tls.key") if folder else "",
        )

    async with engine(tmp_path / "engine", ours) as (port, came):
        assert await greets(source(tmp_path / "epp"), port)
        assert came.get_nowait() == "epp"
        assert not await greets(source(None), port)
        assert not await greets(source(tmp_path / "wrong"), port)
        assert came.empty()


async def test_files_that_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(tmp_path, "ca")
    authority.write(tmp_path / "engine", "engine", LOOPBACK)
    folder = tmp_path / "epp"
    authority.write(folder, "monday")
    source = HttpSource(
        scheme="https",
        client_cert_path=str(folder / "tls.crt"),
        client_key_path=str(folder / "tls.key"),
    )
    caplog.set_level(logging.INFO, "epp.datalayer.clienttls")
    async with engine(tmp_path / "engine", authority) as (port, came):

        async def shown() -> str:
            assert await greets(source, port)
            return came.get_nowait()

        assert await shown() == "monday"
        assert source.tls() is source.tls(), "looked at again, not made again"
        authority.write(folder, "tuesday")
        assert await shown() == "tuesday"
        assert [record.levelname for record in caplog.records] == ["INFO"]
        # Half of a new pair, then nonsense, then nothing: the last good pair goes on, told once for each.
        certificate, key = authority.pair("wednesday")
        for data in (certificate, b"nonsense", None):
            caplog.clear()
            if data is None:
                (folder / "tls.crt").unlink()
            else:
                (folder / "tls.crt").write_bytes(data)
            assert [await shown() for _ in range(3)] == ["tuesday"] * 3
            assert [record.levelname for record in caplog.records] == ["ERROR"]
        (folder / "tls.crt").write_bytes(certificate)
        (folder / "tls.key").write_bytes(key)
        assert await shown() == "wednesday"


async def test_an_authority_that_is_replaced(tmp_path: Path) -> None:
    one, other = Authority(tmp_path, "one"), Authority(tmp_path, "other")
    one.write(tmp_path / "engine", "engine", LOOPBACK)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(other.file.read_bytes())
    source = HttpSource(scheme="https", insecure_skip_verify=False, ca_cert_path=str(ca))
    async with engine(tmp_path / "engine") as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError):
            await greets(source, port)
        ca.write_bytes(other.file.read_bytes() + one.file.read_bytes())
        assert await greets(source, port)


async def test_one_engines_own_certificate_may_stand_for_an_authority(tmp_path: Path) -> None:
    Authority(tmp_path, "ca").write(tmp_path / "engine", "engine", LOOPBACK)
    pinned = str(tmp_path / "engine" / "tls.crt")
    async with engine(tmp_path / "engine") as (port, _):
        assert await greets(HttpSource(scheme="https", insecure_skip_verify=False, ca_cert_path=pinned), port)


def test_sources_that_are_alike_share_a_context(tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ca").file
    one = HttpSource(scheme="https", insecure_skip_verify=False, ca_cert_path=str(ca))
    other = HttpSource(scheme="https", insecure_skip_verify=False, ca_cert_path=str(ca), path="/v1/models")
    assert one.tls() is other.tls()
    assert one.tls() is not HttpSource(scheme="https", ca_cert_path=str(ca)).tls()


def test_a_first_file_that_is_wrong_is_for_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ClientTls(True, str(tmp_path / "none")).context()
    (tmp_path / "ca").write_bytes(b"nonsense")
    with pytest.raises(ssl.SSLError):
        ClientTls(True, str(tmp_path / "ca")).context()


def test_plain_http_has_no_tls() -> None:
    source = HttpSource(server_name="engine.example.com")
    assert source.tls() is None
    assert source.server_hostname("10.0.0.1") is None
