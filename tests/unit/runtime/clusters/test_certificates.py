"""Certificates are private, signed by their own authority, never replaced, and not used after their time."""

import contextlib
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from ssem_dask.errors import ConfigError, OutputError
from ssem_dask.runtime.clusters import certificates
from ssem_dask.runtime.clusters.certificates import make_certificates, read_certificates
from ssem_dask.runtime.clusters.security import VARIABLE, named_security


def test_only_the_owner_may_read_the_key(tmp_path: Path) -> None:
    made = make_certificates(str(tmp_path / "tls"), days=2)
    assert stat.S_IMODE(Path(made.key).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    assert timedelta(days=1) < made.expires - datetime.now(UTC) <= timedelta(days=2)


@pytest.mark.parametrize("mode", [0o777, 0o703, 0o1777])
def test_a_folder_of_others_is_refused(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(OutputError, match="chmod o-w"):
        make_certificates(str(folder), days=2)
    assert list(folder.iterdir()) == []
    folder.chmod(0o775)
    make_certificates(str(folder), days=2)


def test_the_authority_vouches_for_the_certificate_and_for_no_other(tmp_path: Path) -> None:
    made, other = (make_certificates(str(tmp_path / name), days=2) for name in ("a", "b"))
    load = lambda path: x509.load_pem_x509_certificate(Path(path).read_bytes())  # noqa: E731
    load(made.certificate).verify_directly_issued_by(load(made.authority))
    with pytest.raises(Exception, match=r"(?i)signature|^$"):
        load(other.certificate).verify_directly_issued_by(load(made.authority))


def test_the_authoritys_key_is_not_kept(tmp_path: Path) -> None:
    make_certificates(str(tmp_path), days=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    assert (tmp_path / "key.pem").read_text().count("BEGIN") == 1
    public = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes()).public_key()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ssl.SSLError):  # the one key there is does not fit the authority
        context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    assert public is not None


def test_certificates_are_never_replaced(tmp_path: Path) -> None:
    made = make_certificates(str(tmp_path), days=2)
    before = Path(made.key).read_bytes()
    with pytest.raises(OutputError, match="already"):
        make_certificates(str(tmp_path), days=2)
    assert Path(made.key).read_bytes() == before


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
def test_nothing_is_written_through_a_link_that_somebody_has_laid(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot be written"):
        make_certificates(str(folder), days=2)
    assert not (tmp_path / "elsewhere").exists()


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Let both sides of a connection check each other, without a network."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_side=False),
    ]
    for _ in range(10):
        for side in list(sides):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                sides.remove(side)
    assert sides == []


@pytest.fixture
def expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A client whose certificate the authority of the folder `tls` has signed, and whose time is over."""
    keys: list[ec.EllipticCurvePrivateKey] = []
    generate = ec.generate_private_key

    def generate_and_keep(curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        keys.append(generate(curve))
        return keys[-1]

    monkeypatch.setattr(ec, "generate_private_key", generate_and_keep)
    made = make_certificates(str(tmp_path / "tls"), days=2)
    good = x509.load_pem_x509_certificate(Path(made.certificate).read_bytes())
    builder = x509.CertificateBuilder(good.issuer, good.subject, good.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(datetime.now(UTC) - timedelta(days=9))
    builder = builder.not_valid_after(datetime.now(UTC) - timedelta(days=1))
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    (tmp_path / "old.pem").write_bytes(builder.sign(keys[0], SHA256()).public_bytes(Encoding.PEM))
    context = ssl.create_default_context(cafile=made.authority)
    context.check_hostname = False
    context.load_cert_chain(tmp_path / "old.pem", made.key)
    return context


@pytest.mark.parametrize("role", ["scheduler", "worker"])  # a nanny has the certificate of its worker
def test_only_valid_certificates_of_the_same_authority_are_accepted(
    role: str, expired: ssl.SSLContext, tmp_path: Path
) -> None:
    make_certificates(str(tmp_path / "other"), days=2)
    security, other = (named_security(str(tmp_path / name)) for name in ("tls", "other"))
    assert security is not None
    assert other is not None
    server = security.get_listen_args(role)["ssl_context"]
    for friend in ("client", "scheduler", "worker"):
        shake_hands(server, security.get_connection_args(friend)["ssl_context"])
    nobody = ssl.create_default_context(cafile=str(tmp_path / "tls" / "ca.pem"))
    nobody.check_hostname = False
    deceived = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it does not look at the server, so that the server must
    deceived.check_hostname, deceived.verify_mode = False, ssl.CERT_NONE
    deceived.load_cert_chain(tmp_path / "other" / "cert.pem", tmp_path / "other" / "key.pem")
    for stranger in (expired, nobody, deceived):
        with pytest.raises(ssl.SSLError):
            shake_hands(server, stranger)
    with pytest.raises(ssl.SSLError):  # and no client talks to the server of another cluster
        shake_hands(other.get_listen_args(role)["ssl_context"], security.get_connection_args("client")["ssl_context"])


def test_a_folder_that_lacks_a_file(tmp_path: Path) -> None:
    make_certificates(str(tmp_path), days=2)
    (tmp_path / "key.pem").unlink()
    with pytest.raises(ConfigError, match=r"key\.pem is not there"):
        read_certificates(str(tmp_path))


def test_something_that_is_no_certificate(tmp_path: Path) -> None:
    make_certificates(str(tmp_path), days=2)
    (tmp_path / "cert.pem").write_text("certified")
    with pytest.raises(ConfigError, match="no certificate"):
        read_certificates(str(tmp_path))


def test_expired_certificates_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_certificates(str(tmp_path), days=2)

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return made.expires + timedelta(seconds=1)

    monkeypatch.setattr(certificates, "datetime", Later)
    with pytest.raises(ConfigError, match="expired"):
        read_certificates(str(tmp_path))


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert named_security(None) is None
    made = make_certificates(str(tmp_path), days=2)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    security = named_security(None)
    assert security is not None
    assert security.require_encryption
    assert security.tls_client_key == made.key
