"""The XML file of BigDataViewer beside an HDF5 file, which alone has the size of a voxel."""

from xml.etree import ElementTree

from ssem_dask.storage import location
from ssem_dask.storage.lengths import Length


def stored_sizes(hdf5_url: str, *, setup: int) -> dict[str, Length]:
    """Return the lengths of a voxel of a setup along z, y and x; {} if there is no such file or entry."""
    url = hdf5_url.rpartition(".")[0] + ".xml"
    try:
        root = ElementTree.fromstring(location.read_bytes(url))
    except (OSError, ElementTree.ParseError):
        return {}
    for view in root.iter("ViewSetup"):
        size, unit = view.findtext("voxelSize/size"), view.findtext("voxelSize/unit")
        if view.findtext("id", "").strip() == str(setup) and size is not None and unit is not None:
            values = size.split()
            return dict(zip("xyz", [(value, unit) for value in values], strict=False)) if len(values) == 3 else {}
    return {}
