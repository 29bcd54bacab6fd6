"""Certificates are private, signed by their own authority, never replaced, and not used after their time."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

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
