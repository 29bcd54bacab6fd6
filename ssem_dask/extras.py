"""Optional dependencies: what `pip install 'ssem_dask[…]'` adds, and one clear sentence if it is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from ssem_dask.errors import MissingExtraError


@contextmanager
def needs_extra(extra: str, *, purpose: str) -> Iterator[None]:
    """Import optional dependencies inside this context.

    Args:
        extra: name of the extra in pyproject.toml that brings them.
        purpose: command, file or option that needs them; begins the sentence.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "ssem_dask"):
            raise  # a bug of this package must keep its traceback
        raise MissingExtraError(
            f"{purpose}: the package {package} is not installed; install it with `pip install 'ssem_dask[{extra}]'`."
        ) from error
