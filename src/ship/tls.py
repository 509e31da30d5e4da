"""The key and the certificate of a Ship that is reached over TCP. They live in this process alone.

OpenSSL makes both: Python's ssl module can use a key and make none, so the library that it is linked against
is called by ctypes. Nothing checks the certificate but for its hash, which Bay learns with a proof (see
`ship.bootstrap`), so it says nothing and never expires.
"""

import _ssl
import ctypes
import hashlib
import os
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_long, c_void_p
from typing import NamedTuple, NoReturn

_EC = 408  # NID_X9_62_id_ecPublicKey
_ASCII = 0x1001  # MBSTRING_ASC
_INFO = 3  # BIO_CTRL_INFO
_VERSION_3 = 2
_CENTURY_S = 3_153_600_000
_SERIAL_BYTES = 8


class Identity(NamedTuple):
    """A context to serve with, and the SHA-256 of its certificate in DER, as hexadecimal digits."""

    context: ssl.SSLContext
    certificate: str


def make_identity() -> Identity:
    """A new P-256 key, its certificate, and a context for TLS 1.3 alone. Raises OSError."""
    with _own_configuration():
        key, certificate = _Maker().make()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # Bay keeps connections, and resumes none
        _load(context, key + certificate)
    der = ssl.PEM_cert_to_DER_cert(certificate.decode("ascii"))
    return Identity(context, hashlib.sha256(der).hexdigest())


@contextmanager
def _own_configuration() -> Generator[None]:
    # OpenSSL reads its configuration with its first context, and the image's may name modules of another C
    # library.
    given = os.environ.get("OPENSSL_CONF")
    os.environ["OPENSSL_CONF"] = os.devnull
    try:
        yield
    finally:
        if given is None:
            del os.environ["OPENSSL_CONF"]
        else:
            os.environ["OPENSSL_CONF"] = given


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """It takes a file only; this one is memory."""
    file = os.memfd_create("ship", os.MFD_CLOEXEC)
    try:
        os.pwrite(file, pem, 0)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.pwrite(file, bytes(len(pem)), 0)
        os.close(file)


class _Maker:
    """Calls of libcrypto, OpenSSL 1.1.1 or later."""

    def __init__(self) -> None:
        # By way of the extension, which finds the very library that it is linked against.
        self._library = ctypes.CDLL(getattr(_ssl, "__file__", None))

    def make(self) -> tuple[bytes, bytes]:
        """The key and the certificate, in PEM."""
        key = self._make_key()
        try:
            certificate = self._make_certificate(key)
            try:
                return self._key_pem(key), self._certificate_pem(certificate)
            finally:
                self._call("X509_free", certificate)
        finally:
            self._call("EVP_PKEY_free", key)

    def _make_key(self) -> c_void_p:
        context = self._made("EVP_PKEY_CTX_new_id", c_int(_EC), None)
        key = c_void_p()
        try:
            self._check("EVP_PKEY_keygen_init", context)
            self._check("EVP_PKEY_CTX_ctrl_str", context, b"ec_paramgen_curve", b"P-256")
            self._check("EVP_PKEY_keygen", context, byref(key))
        finally:
            self._call("EVP_PKEY_CTX_free", context)
        return key

    def _make_certificate(self, key: c_void_p) -> c_void_p:
        made = self._made("X509_new")
        try:
            self._check("X509_set_version", made, c_long(_VERSION_3))
            serial = int.from_bytes(os.urandom(_SERIAL_BYTES), "big") >> 2
            self._check("ASN1_INTEGER_set", self._made("X509_get_serialNumber", made), c_long(serial))
            self._made("X509_gmtime_adj", self._made("X509_getm_notBefore", made), c_long(0))
            self._made("X509_gmtime_adj", self._made("X509_getm_notAfter", made), c_long(_CENTURY_S))
            self._check("X509_set_pubkey", made, key)
            name = self._made("X509_get_subject_name", made)
            entry = (b"CN", c_int(_ASCII), b"ship", c_int(-1), c_int(-1), c_int(0))
            self._check("X509_NAME_add_entry_by_txt", name, *entry)
            self._check("X509_set_issuer_name", made, name)
            self._check("X509_sign", made, key, self._made("EVP_sha256"))
        except BaseException:
            self._call("X509_free", made)
            raise
        return made

    def _key_pem(self, key: c_void_p) -> bytes:
        return self._written("PEM_write_bio_PrivateKey", key, None, None, c_int(0), None, None)

    def _certificate_pem(self, certificate: c_void_p) -> bytes:
        return self._written("PEM_write_bio_X509", certificate)

    def _written(self, write: str, *arguments: object) -> bytes:
        memory = self._made("BIO_new", self._made("BIO_s_mem"))
        try:
            self._check(write, memory, *arguments)
            start = c_char_p()
            size = self._call("BIO_ctrl", memory, c_int(_INFO), c_long(0), byref(start), result=c_long)
            return ctypes.string_at(start, size)
        finally:
            self._call("BIO_free", memory)

    def _made(self, name: str, *arguments: object) -> c_void_p:
        """The call's pointer. Raises OSError for none."""
        pointer = self._call(name, *arguments, result=c_void_p)
        return c_void_p(pointer) if pointer else _fail(name)

    def _check(self, name: str, *arguments: object) -> None:
        """Raises OSError unless it succeeds."""
        if self._call(name, *arguments) <= 0:
            _fail(name)

    def _call(self, name: str, *arguments: object, result: type = c_int) -> int:
        function = self._library[name]  # a new one each time, so that its result type is its own
        function.restype = result
        return function(*arguments)


def _fail(name: str) -> NoReturn:
    raise OSError(f"OpenSSL refused {name}")
