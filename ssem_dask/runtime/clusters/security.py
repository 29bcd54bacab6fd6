"""Choice of a cluster's certificates: those that the user names, else the environment, else Dask's configuration."""

import os

from distributed.security import Security

from ssem_dask.runtime.clusters.certificates import read_certificates

VARIABLE = "SSEM_DASK_TLS"


def named_security(directory: str | None) -> Security | None:
    """Return the TLS settings for the certificates of a folder.

    Args:
        directory: folder made by `ssem-dask certs`; None: the folder that `$SSEM_DASK_TLS` names.

    Returns:
        None if neither names a folder.

    Raises:
        ConfigError: the folder lacks a file, or its certificates have expired.
    """
    directory = directory or os.environ.get(VARIABLE) or None
    if directory is None:
        return None
    files = read_certificates(directory)
    return Security(
        require_encryption=True,
        tls_ca_file=files.authority,
        tls_client_cert=files.certificate,
        tls_client_key=files.key,
        tls_scheduler_cert=files.certificate,
        tls_scheduler_key=files.key,
        tls_worker_cert=files.certificate,
        tls_worker_key=files.key,
    )
