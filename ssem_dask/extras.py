"""Optional dependencies: what `pip install 'ssem_dask[…]'` adds, and one clear sentence if it is missing."""

from importlib.util import find_spec

from ssem_dask.errors import MissingExtraError

_REPORT = ("PIL", "jinja2", "matplotlib")
_PACKAGES = {
    "formats": ("h5py", "imagecodecs", "tifffile"),
    "report": _REPORT,
    "meshes": ("plyfile",),
    "slurm": ("dask_jobqueue",),
    "tensorstore": ("tensorstore",),
    "view": ("neuroglancer", "tornado", *_REPORT),
}
"""Packages that each extra of pyproject.toml brings, by the name that is imported."""


def require_extra(extra: str, *, purpose: str) -> None:
    """Check that the packages of an extra are installed; call it before work that ends in importing them.

    Args:
        extra: name of the extra in pyproject.toml.
        purpose: command, file or option that needs it; begins the sentence.

    Raises:
        MissingExtraError: a package is not installed.
    """
    missing = [package for package in _PACKAGES[extra] if find_spec(package) is None]
    if missing:
        cure = f"install it with `pip install 'ssem_dask[{extra}]'`"
        raise MissingExtraError(f"{purpose}: needs {' and '.join(missing)}, not installed; {cure}.")
