"""TensorStore, an optional package: its import, and its description of a location."""

import importlib
import os
from typing import Any

from ssem_dask.errors import SourceError
from ssem_dask.extras import require_extra
from ssem_dask.shown import secret_of
from ssem_dask.storage import location
from ssem_dask.storage.requests import authorization_for


def tensorstore(url: str) -> Any:
    """Return the package; raise MissingExtraError about the volume at `url` if it is not installed."""
    require_extra("tensorstore", purpose=url)
    return importlib.import_module("tensorstore")


def kvstore_spec(url: str) -> dict[str, Any]:
    """Return TensorStore's description of a location.

    Raises:
        SourceError: TensorStore does not support the location.
    """
    if location.is_local(url):
        return {"driver": "file", "path": str(location.local_path(url).absolute()) + "/"}
    protocol, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    if protocol == "s3":
        return {"driver": "s3", "bucket": bucket, "path": path.rstrip("/") + "/", **_s3_server()}
    if protocol == "gs":
        return {"driver": "gcs", "bucket": bucket, "path": path.rstrip("/") + "/"}
    if protocol in ("http", "https"):
        secret = secret_of(url)
        query = f"?{secret.query}" if secret.query else ""
        authorization = authorization_for(url)
        headers = [f"Authorization: {authorization}"] if authorization else []
        return {"driver": "http", "base_url": f"{url.rstrip('/')}/{query}", "headers": headers}
    raise SourceError(
        f"{url}: N5 and precomputed need a folder, s3:// or gs://, or an HTTP server for reading; use one of these."
    )


def _s3_server() -> dict[str, str]:
    """Return the S3 server that the environment names; fsspec uses these variables, TensorStore does not."""
    server = {
        "endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "aws_region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    return {name: value for name, value in server.items() if value}
