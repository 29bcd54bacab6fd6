"""Certificates of one cluster: a folder with an authority and the single identity that it signs.

Whoever holds the certificate may run code on the workers, as client, scheduler or worker: Dask does not distinguish the
three, so there is only one identity. The authority's key is discarded at once: nothing can be signed later, and if a
folder leaks, a new one replaces it.
"""

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ssem_dask.errors import ConfigError, OutputError

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"
_SKEW = timedelta(hours=1)  # the clocks of a cluster's machines differ


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of one cluster's certificates, and their expiry."""

    authority: str
    certificate: str
    key: str
    expires: datetime


def make_certificates(directory: str, *, days: int) -> Certificates:
    """Create the certificates of a cluster.

    Args:
        directory: folder to write `ca.pem`, `cert.pem` and `key.pem` to; created if missing.
        days: days until they expire.

    Raises:
        OutputError: the folder has certificates already, other users may write to it, or it cannot be written.
    """
    folder = Path(directory)
    if folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH:  # a group is often the user's own
        raise OutputError(
            f"Certificates {directory}: all users may write to this folder, and so replace the certificates; take that "
            f"right away (chmod o-w {directory}), or give another folder."
        )
    present = [name for name in (AUTHORITY, CERTIFICATE, KEY) if (folder / name).exists()]
    if present:
        raise OutputError(
            f"Certificates {directory}: holds {', '.join(present)} already, and a running cluster may use them; give "
            "another folder, or remove that one."
        )
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    authority = _signed(None, "ssem_dask cluster authority", authority_key, by=authority_key, expires=expires)
    certificate = _signed(authority, "ssem_dask cluster", key, by=authority_key, expires=expires)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(folder / KEY, pem, mode=0o600)
        _write(folder / CERTIFICATE, certificate.public_bytes(Encoding.PEM), mode=0o644)
        _write(folder / AUTHORITY, authority.public_bytes(Encoding.PEM), mode=0o644)
    except OSError as error:
        raise OutputError(
            f"Certificates {directory}: cannot be written ({error.strerror}); give a folder that you may write to."
        ) from error
    return read_certificates(directory)


def read_certificates(directory: str) -> Certificates:
    """Read the certificates of a folder, and check that they are valid.

    Raises:
        ConfigError: a file is missing, unreadable or no certificate, or the certificates have expired.
    """
    paths = {name: Path(directory) / name for name in (AUTHORITY, CERTIFICATE, KEY)}
    for name, path in paths.items():
        if not os.access(path, os.R_OK):
            state = "cannot be read" if path.exists() else "is not there"
            raise ConfigError(
                f"Certificates {directory}: {name} {state}; make the folder with `ssem-dask certs {directory}`, or "
                "copy it from where the cluster was started."
            )
    try:
        loaded = [x509.load_pem_x509_certificate(paths[name].read_bytes()) for name in (AUTHORITY, CERTIFICATE)]
    except ValueError as error:
        raise ConfigError(
            f"Certificates {directory}: {AUTHORITY} or {CERTIFICATE} is no certificate ({error}); make a new folder "
            "with `ssem-dask certs`."
        ) from error
    expires = min(certificate.not_valid_after_utc for certificate in loaded)
    if expires < datetime.now(UTC):
        raise ConfigError(
            f"Certificates {directory}: expired on {expires:%Y-%m-%d}; make a new folder with `ssem-dask certs` and "
            "give it to scheduler, workers and client."
        )
    return Certificates(
        authority=str(paths[AUTHORITY]), certificate=str(paths[CERTIFICATE]), key=str(paths[KEY]), expires=expires
    )


def _signed(
    issuer: x509.Certificate | None,
    name: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    by: ec.EllipticCurvePrivateKey,
    expires: datetime,
) -> x509.Certificate:
    """Return a certificate for `key`, signed `by` the issuer's key; without issuer that of an authority."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    authority = issuer is None
    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _SKEW)
        .not_valid_after(expires)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if not authority:
        # Dask verifies the authority and no host name: the addresses of workers are not known in advance.
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(both, critical=False)
    return builder.sign(by, SHA256())


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Write a new file that never, not even briefly, has wider permissions than `mode`."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
