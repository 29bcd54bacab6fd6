"""Files of pages."""

from pathlib import Path

from ssem_dask.errors import OutputError
from ssem_dask.storage.location import is_local, local_path


def write_page(html: str, file: Path, *, what: str) -> Path:
    """Write an HTML file.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(html, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{what} {file}: cannot be written ({error.strerror}); give another --file.") from error
    return file


def default_file(output: str) -> Path:
    """Return the file of a run's report: beside the run, or here if that is no folder of this machine."""
    name = output.rstrip("/").rpartition("/")[2].removesuffix(".zarr") + ".report.html"
    return local_path(output).absolute().parent / name if is_local(output) else Path(name)
