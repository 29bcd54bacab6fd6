"""Tags of a TIFF page and of a TIFF file: what values mean, sizes, names of sections.

The plain resolution tags are not read, because most writers set them to 72 dpi. OME-XML and ImageJ metadata carry units
and are read.
"""

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.grey import ValueTags, grey_palette, orientation_of
from ssem_dask.storage.formats.source import native_dtype
from ssem_dask.storage.lengths import Length, Sizes, sizes_of, sizes_of_all

_GREY, _INVERTED, _COLOURS, _PALETTE, _MASK, _YCBCR = 1, 0, 2, 3, 4, 6
_REDUCED, _TRANSPARENCY = 1, 4


def value_tags(page: Any, where: str) -> ValueTags:
    """Return the tags of a page that change what its values mean.

    Raises:
        SourceError: the page has a kind of values that is no image, several sections, or a damaged palette.
    """
    photometric = None if page.photometric is None else int(page.photometric)
    if photometric not in (None, _INVERTED, _GREY, _COLOURS, _PALETTE, _MASK, _YCBCR):
        name = getattr(page.photometric, "name", str(page.photometric))
        raise SourceError(f"{where}: its values are {name}, but a section is grey; convert it to grey.")
    if int(page.imagedepth) > 1:
        raise SourceError(
            f"{where}: holds {page.imagedepth} sections in one page (tag ImageDepth); save each as a page of its own."
        )
    palette = None
    if photometric == _PALETTE:
        if page.colormap is None:
            raise SourceError(f"{where}: has no palette, though its values are entries of one; export it again.")
        palette = grey_palette(np.asarray(page.colormap).T, where)
    tag = page.tags.get("Orientation")
    bits = page.bitspersample
    return ValueTags(
        channels=int(page.samplesperpixel),
        inverted=photometric == _INVERTED,
        bits=int(bits) if isinstance(bits, int) else None,
        palette=palette,
        orientation=orientation_of(1 if tag is None else tag.value),
        separate=int(page.samplesperpixel) > 1 and int(page.planarconfig) == 2,
    )


def stored_dtype(page: Any, where: str) -> np.dtype[Any]:
    """Return the type of a page's values in native byte order; SourceError if it is unknown."""
    if page.dtype is None:
        raise SourceError(f"{where}: its sample type is unknown; export it as 8 or 16 bit grey.")
    return native_dtype(page.dtype)


def is_section(page: Any) -> bool:
    """Return whether a page is an image of its own, not a reduced copy or a transparency mask of another one."""
    return not int(page.subfiletype or 0) & (_REDUCED | _TRANSPARENCY)


def raw_place(page: Any) -> tuple[int, np.dtype[Any]] | None:
    """Return place and stored type of the values of a page, if they follow each other as they are; else None."""
    if not page.is_contiguous or page.compression != 1 or page.fillorder != 1 or page.dtype is None:
        return None
    stored = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    whole = stored.itemsize * int(page.imagelength) * int(page.imagewidth) == sum(page.databytecounts)
    return (int(page.dataoffsets[0]), stored) if whole else None


def whole_page(page: Any) -> Any:
    """Return a page with its own tags in place of a frame, which has those of the key frame; its file is opened."""
    handle = page.parent.filehandle
    if handle.closed:
        handle.open()
    return page.aspage() if isinstance(page, tifffile.TiffFrame) else page


def sizes(tiff: tifffile.TiffFile) -> Sizes:
    """Return the sizes that a file reports."""
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_sizes(tiff.ome_metadata)
    metadata = tiff.imagej_metadata
    if not (tiff.is_imagej and metadata):
        return _microscope_sizes(tiff)
    unit = metadata.get("unit", "")
    axes: dict[str, Length] = {"z": (metadata.get("spacing", 0), metadata.get("zunit", unit))}
    for axis, tag_name, axis_unit in (("x", "XResolution", unit), ("y", "YResolution", metadata.get("yunit", unit))):
        tag = tiff.pages.first.tags.get(tag_name)
        pixels, per = tag.value if tag is not None else (0, 1)
        if pixels:
            axes[axis] = (per / pixels, axis_unit)
    return sizes_of(axes)


def _microscope_sizes(tiff: tifffile.TiffFile) -> Sizes:
    """Return the sizes in the tags of electron microscopes: of FEI and Thermo Fisher, and of Zeiss."""
    for section in (tiff.fei_metadata or {}).values():
        if isinstance(section, dict) and "PixelWidth" in section:
            return sizes_of(
                {axis: (section.get(key), "m") for axis, key in (("x", "PixelWidth"), ("y", "PixelHeight"))}
            )
    zeiss = (tiff.sem_metadata or {}).get("ap_image_pixel_size", (tiff.sem_metadata or {}).get("ap_pixel_size"))
    if isinstance(zeiss, tuple) and len(zeiss) == 3:  # name, value, unit
        return sizes_of({"x": zeiss[1:]})
    return Sizes()


def imagej_labels(tiff: tifffile.TiffFile) -> list[str]:
    """Return the labels of the slices of an ImageJ stack, in the order of its planes; [] if it has none."""
    labels = (tiff.imagej_metadata or {}).get("Labels") if tiff.is_imagej else None
    if not isinstance(labels, list):
        return []
    return [str(label).strip("\0 ").splitlines()[0] if str(label).strip("\0 ") else "" for label in labels]


def ome_images(xml: str) -> list[dict[str, str]]:
    """Return the attributes of the element `Pixels` of each image in OME-XML; [] if the XML cannot be parsed."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []
    return [dict(node.attrib) for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"]


def planes_announced(xml: str) -> int:
    """Return the number of planes that the OME-XML of a file announces for its only image; 0 if it has several."""
    images = ome_images(xml)
    return int(np.prod([int(images[0].get(f"Size{axis}", 1)) for axis in "ZCT"])) if len(images) == 1 else 0


def ome_channels(xml: str) -> list[str]:
    """Return the name of each channel of the first image in OME-XML, "" for those without a name."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []
    pixels = next((node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    channels = [] if pixels is None else [node for node in pixels if node.tag.rpartition("}")[2] == "Channel"]
    return [node.attrib.get("Name", "").strip() for node in channels]


def ome_companion(xml: str) -> str | None:
    """Return the name of the file that holds the OME-XML of this one; None if it holds its own."""
    match = re.search(r'<(?:\w+:)?BinaryOnly[^>]*MetadataFile="([^"]+)"', xml)
    return match[1] if match else None


def ome_first_file(xml: str) -> str | None:
    """Return the name of the first file of planes that OME-XML names; None if it names none."""
    match = re.search(r'<(?:\w+:)?UUID[^>]*FileName="([^"]+)"', xml)
    return match[1] if match else None


def _ome_sizes(xml: str) -> Sizes:
    images = ome_images(xml) or [dict(re.findall(r'(PhysicalSize[XYZ](?:Unit)?)="([^"]*)"', xml))]
    found = []
    for number, image in enumerate(images):
        axes = {
            axis.lower(): (image[f"PhysicalSize{axis}"], image.get(f"PhysicalSize{axis}Unit", "µm"))
            for axis in "XYZ"
            if f"PhysicalSize{axis}" in image
        }
        found.append((f"image {number}", sizes_of(axes)))
    return found[0][1] if len(found) == 1 else sizes_of_all(found)
