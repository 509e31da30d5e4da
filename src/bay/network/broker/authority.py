"""The certificate authority of one sandbox, which its broker's certificates are signed by.

Its key never leaves Bay: the broker has certificates for its domains alone. Only the one sandbox trusts it.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_EARLIER = timedelta(days=1)  # the clocks of programs differ
_CA_AGE, _LEAF_AGE = timedelta(days=3650), timedelta(days=390)

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """A key and its certificate."""

    key: Key
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        """The certificate, which is no secret."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, domain: str) -> str:
        """A new key and a certificate for `domain`, as PEM that a TLS server loads."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        made = (
            _builder(_name(domain[:64]), self.certificate.subject, key, _LEAF_AGE)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        return _pem_of(key) + made.public_bytes(serialization.Encoding.PEM).decode()


def open_authority(path: Path, session_id: str) -> Authority:
    """The authority in the file, made (0600) if there is none or its write was cut off. Blocks."""
    try:
        return _read(path.read_bytes())
    except (FileNotFoundError, ValueError):
        made = _make(session_id)
        _write(path, _pem_of(made.key) + made.pem)
        return made


def _read(data: bytes) -> Authority:
    key = serialization.load_pem_private_key(data, None)
    if not isinstance(key, Key):
        raise ValueError("another kind of key")
    return Authority(key, x509.load_pem_x509_certificate(data))


def _make(session_id: str) -> Authority:
    key, name = ec.generate_private_key(ec.SECP256R1()), _name(f"Bay sandbox {session_id[-24:]}")
    made = (
        _builder(name, name, key, _CA_AGE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, made)


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, age: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + age)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem_of(key: Key) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "w") as file:
        file.write(text)
