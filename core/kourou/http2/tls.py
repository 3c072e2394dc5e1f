"""The server's certificate: its owner's, or one made at start.

Java, Go, C++ and C# clients of RocketMQ use TLS unless told otherwise, and do not verify (the official servers, too, come
with a certificate of their own making). So a server without a certificate makes one, which keeps out those who only listen.
Whoever needs more configures PEM files.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import tempfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography import x509

_VALID_DAYS: Final = 3_650
_SKEW_DAYS: Final = 2  # clients whose clock is behind
_ALPN: Final = ["h2"]


def own(certificate: str, key: str, *, password: str | None = None, client_ca: str | None = None) -> ssl.SSLContext:
    """From PEM files: the certificate with its chain, and its key. ``client_ca``: clients must show a certificate that it
    has signed. Raises OSError (ssl.SSLError is one) where a file can't be read or doesn't fit."""
    context = _context()
    reload(context, certificate, key, password=password)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def reload(context: ssl.SSLContext, certificate: str, key: str, *, password: str | None = None) -> None:
    """Take what is in the files now. Open connections keep what they have. Raises OSError, and nothing has changed then."""
    trial = _context()
    trial.load_cert_chain(certificate, key, password or "")  # with None a key with a password would ask the terminal
    context.load_cert_chain(certificate, key, password or "")


def self_signed(names: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")) -> ssl.SSLContext:
    """With a new certificate, whose key never was in a file that stays."""
    return from_pem(*make_certificate(names))


def from_pem(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """From PEM in memory."""
    context = _context()
    with tempfile.TemporaryDirectory(prefix="kourou-") as folder:  # ssl loads from files alone
        certificate_path, key_path = os.path.join(folder, "certificate.pem"), os.path.join(folder, "key.pem")
        for path, content in ((certificate_path, certificate), (key_path, key)):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
        context.load_cert_chain(certificate_path, key_path)
    return context


def make_certificate(names: tuple[str, ...]) -> tuple[bytes, bytes]:
    """A self-signed certificate for these names and addresses, and its key, as PEM."""
    from cryptography import x509  # a tenth of a second that only this case pays
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kourou")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=_SKEW_DAYS))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    return context
