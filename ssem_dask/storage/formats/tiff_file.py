"""One TIFF file: its sections, each a page or a part of the data behind a page, and their grey values.

A file announces its sections in several ways: by its chain of pages, ImageJ's `images`, the sizes in OME-XML, the shape
that tifffile writes. All are compared with what is there.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from tifffile.tifffile import shaped_description_metadata

from ssem_dask.errors import SourceError
from ssem_dask.storage import location
from ssem_dask.storage.channels import channel_options
from ssem_dask.storage.formats.axes import AxisOrder, order_axes
from ssem_dask.storage.formats.grey import ValueTags, channels_agree, check_channel, grey_values
from ssem_dask.storage.formats.source import ReadOptions, SourceInfo, decoding
from ssem_dask.storage.formats.tiff_chain import check_chain, check_data, missing_parts, unread_note
from ssem_dask.storage.formats.tiff_tags import (
    imagej_labels,
    is_section,
    ome_channels,
    ome_companion,
    ome_first_file,
    ome_images,
    planes_announced,
    raw_place,
    sizes,
    stored_dtype,
    value_tags,
    whole_page,
)
from ssem_dask.types import AnyArray
from ssem_dask.units import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stack:
    """Planes of a file, in the order in which they are stored, and the axes that count them."""

    axes: tuple[tuple[Any, int], ...]
    """Name and extent of each axis before y and x."""
    pages: list[Any]
    """Page of each plane; a single one if the planes follow each other behind it."""
    notes: tuple[str, ...] = ()
    """Remarks about what is in the file beside them."""
    contiguous: int | None = None
    """Where the data of planes behind a single page start; None if each plane is a page."""


class TiffSource:
    """Sections of one TIFF file, or of the files of one OME-TIFF set."""

    def __init__(self, url: str, options: ReadOptions, *, alone: bool = True) -> None:
        """Check the tags of every page.

        Args:
            url: of the file.
            options: choices of the user.
            alone: whether the file is the whole source, not one section of a series. If it is, pages in other files of
                its OME-TIFF set are read as well.

        Raises:
            SourceError: the file is missing, damaged or truncated, or a page differs from the first or is not grey.
        """
        self._url, self._options = url, options
        self._lock = threading.Lock()
        self._tiff: tifffile.TiffFile | None = None
        self._file: Any = None
        self._stack: _Stack | None = None
        self.missing: tuple[str, ...] = ()
        """Remark about tiles and strips without data."""
        with decoding(url):
            try:
                self._open(url, alone=alone)
                self._stack = stack = self._find_stack(alone=alone)
                self._order = self._order_planes(stack)
                self.info = self._describe(stack)
                samples = int(stack.pages[0].samplesperpixel)
                if samples > 1:
                    check_channel(url, options.channel, samples)
                if (alone and samples > 1 and options.channel is None) or len(self._planes) > 1:
                    self._rows(0, 0, self.info.shape[1])  # channels that differ end the import here, not later
            except BaseException:
                self.close()
                raise

    @property
    def set_files(self) -> frozenset[str]:
        """Names of all files that hold pages of this source; only an OME-TIFF set has several."""
        return frozenset(page.parent.filehandle.name for page in self._planes_there.pages)

    @property
    def tags(self) -> ValueTags:
        """Tags of the first page."""
        return self._tags[0]

    @property
    def is_one_plain_page(self) -> bool:
        """Whether the file has one page, whose stored values are the grey values."""
        stack = self._planes_there
        return len(self._opened.pages) == 1 and stack.contiguous is None and self._tags[0].plain

    @property
    def raw_values(self) -> tuple[int, np.dtype[Any]] | None:
        """Place and stored type of the values of such a page, if they follow each other in the file as they are."""
        return raw_place(self._planes_there.pages[0]) if self.is_one_plain_page else None

    def read(self, *, z_start: int, z_stop: int, y_start: int, y_stop: int) -> AnyArray:
        """See `Source.read`; compressed pages are decoded as a whole, one at a time."""
        out = np.empty((z_stop - z_start, y_stop - y_start, self.info.shape[2]), self.info.dtype)
        with self._lock:
            for index, z in enumerate(range(z_start, z_stop)):
                with decoding(f"{self._url} page {z}"):
                    out[index] = self._rows(z, y_start, y_stop)
        return out

    def read_channels(
        self, numbers: Sequence[int], *, z_start: int, z_stop: int, y_start: int, y_stop: int
    ) -> list[AnyArray]:
        """See `Source.read_channels`."""
        shape = (z_stop - z_start, y_stop - y_start, self.info.shape[2])
        out = [np.empty(shape, self.info.dtype) for _ in numbers]
        samples = self._tags[0].channels > 1
        planes = self._planes if samples else self._order.planes([n for _, n in self._planes_there.axes], numbers)
        with self._lock:
            for index, z in enumerate(range(z_start, z_stop)):
                with decoding(f"{self._url} page {z}"):
                    if samples:
                        found = self._plane_rows(planes[0][z], y_start, y_stop, channels=numbers)
                    else:
                        found = [self._plane_rows(plane[z], y_start, y_stop)[0] for plane in planes]
                for band, values in zip(out, found, strict=True):
                    band[index] = values
        return out

    def close(self) -> None:
        """Close the file, and the others of its set."""
        if self._stack is not None:
            for page in self._stack.pages:
                page.parent.filehandle.close()
        if self._tiff is not None:
            self._tiff.close()
        if self._file is not None:
            self._file.close()

    @property
    def _planes_there(self) -> _Stack:
        assert self._stack is not None
        return self._stack

    @property
    def _opened(self) -> tifffile.TiffFile:
        assert self._tiff is not None
        return self._tiff

    def _open(self, url: str, *, alone: bool) -> None:
        local = location.is_local(url)
        self._file = None if local else location.open_remote(url)
        self._tiff = tifffile.TiffFile(self._file or location.local_path(url))
        check_chain(self._tiff, url)
        companion = ome_companion(self._tiff.ome_metadata or "") if self._tiff.is_ome else None
        if companion is None or not local or not alone:
            return
        metadata = location.join_below(location.parent(url) or "", companion)
        if not location.exists(metadata):
            raise SourceError(f"{url}: its metadata is in {companion}, which is not beside it; copy that file too.")
        xml = location.read_bytes(metadata).decode("utf-8", "replace")
        self._tiff.close()
        # tifffile takes the file that it opens for the first one that the XML names.
        named = ome_first_file(xml)
        first = None if named is None else location.join_below(location.parent(url) or "", named)
        place = first if first is not None and location.exists(first) else url
        self._tiff = tifffile.TiffFile(location.local_path(place), omexml=xml)

    def _find_stack(self, *, alone: bool) -> _Stack:
        tiff, url = self._opened, self._url
        pages: list[Any] = list(tiff.pages)
        for number, page in enumerate(pages):
            check_data(page, url if number == 0 else f"{url} page {number}", size=tiff.filehandle.size)
        pages = [page for page in pages if is_section(page)] or pages
        if tiff.is_ome and tiff.ome_metadata and (alone or planes_announced(tiff.ome_metadata) == len(pages)):
            stack = self._ome_stack(pages)
            if stack is not None:
                return stack
        if tiff.is_imagej:
            return self._imagej_stack(pages)
        if tiff.is_shaped:
            return self._shaped_stack(pages)
        return self._other_stack(pages)

    def _ome_stack(self, pages: list[Any]) -> _Stack | None:
        tiff, url = self._opened, self._url
        images = ome_images(str(tiff.ome_metadata))
        if not images:
            return None
        if len(images) > 1:
            raise SourceError(f"{url}: holds {len(images)} images, but a volume is one; export one of them alone.")
        announced = {axis: int(images[0].get(f"Size{axis}", 1)) for axis in "ZCT"}
        announced["C"] = max(1, announced["C"] // int(pages[0].samplesperpixel))
        expected = int(np.prod(list(announced.values())))
        series = tiff.series[0]
        axes = tuple((axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YXS")
        if series.kind != "ome" or int(np.prod([n for _, n in axes], dtype=int)) != expected:
            axes = tuple((axis, announced[axis]) for axis in "TZC")
        if len(pages) == 1 and expected > 1 and series.dataoffset is not None:
            return self._behind_one_page(pages[0], axes, announced=expected)
        found = pages if series.kind != "ome" else [whole_page(page) for page in series.pages if page is not None]
        if len(found) != expected:
            raise SourceError(
                f"{url}: announces {plural(expected, 'section')} (OME-XML), but {len(found)} are there; copy all "
                "files of the set, whole."
            )
        for page in found:
            check_data(page, page.parent.filehandle.name, size=page.parent.filehandle.size)
        return _Stack(axes=axes or (("Z", 1),), pages=found, notes=unread_note(url, pages, found))

    def _imagej_stack(self, pages: list[Any]) -> _Stack:
        metadata = self._opened.imagej_metadata or {}
        images = int(metadata.get("images", len(pages)))
        axes = tuple(
            (axis, int(metadata.get(key, 1))) for axis, key in (("T", "frames"), ("Z", "slices"), ("C", "channels"))
        )
        if int(np.prod([n for _, n in axes])) != images:
            axes = (("Z", images),)
        if len(pages) == 1 and images > 1:
            return self._behind_one_page(pages[0], axes, announced=images)
        if len(pages) != images:
            said = f"{self._url}: announces {plural(images, 'section')} (ImageJ)"
            raise SourceError(f"{said}, but {len(pages)} are there; copy it again.")
        return _Stack(axes=axes, pages=pages)

    def _shaped_stack(self, pages: list[Any]) -> _Stack:
        """Use the shapes that tifffile wrote into the descriptions of a file."""
        first = pages[0].shaped_description if len(self._opened.pages) == 1 else None
        # The series of a file take a third of the time to open it, and one page makes one series.
        found = self._opened.shaped_metadata if first is None else [shaped_description_metadata(first)]
        records = [record for record in found or () if "shape" in record]
        page_size = int(np.prod(pages[0].shape))
        shapes = [tuple(int(n) for n in record["shape"]) for record in records]
        announced = sum(int(np.prod(shape)) for shape in shapes) // max(1, page_size)
        axes: tuple[tuple[Any, int], ...] = ((None, announced),)
        within = len(pages[0].shape)
        if len(records) == 1 and shapes[0][len(shapes[0]) - within :] == tuple(pages[0].shape):
            lead = shapes[0][: len(shapes[0]) - within]
            names = (
                str(records[0].get("axes", "")) if len(str(records[0].get("axes", ""))) == len(shapes[0]) else "Q" * 99
            )
            axes = tuple(zip(names, lead, strict=False)) or ((None, 1),)
        if len(pages) == 1 and announced > 1:
            return self._behind_one_page(pages[0], axes, announced=announced)
        if len(pages) < announced:
            raise SourceError(
                f"{self._url}: announces {plural(announced, 'section')}, but {len(pages)} are there; copy it again."
            )
        return _Stack(axes=axes if len(pages) == announced else ((None, len(pages)),), pages=pages)

    def _other_stack(self, pages: list[Any]) -> _Stack:
        if len(pages) == 1 and not self._opened.is_ome:
            count = self._opened.series[0].size // max(1, pages[0].size)
            if count > 1:
                return self._behind_one_page(pages[0], ((None, count),), announced=count)
        return _Stack(axes=((None, len(pages)),), pages=pages)

    def _behind_one_page(self, page: Any, axes: tuple[tuple[Any, int], ...], *, announced: int) -> _Stack:
        start, size = page.dataoffsets[0], self._opened.filehandle.size
        found = (size - start) // max(1, page.nbytes)
        if page.compression != 1 or page.samplesperpixel != 1:
            raise SourceError(f"{self._url}: announces {announced} sections, but 1 is there; copy it again.")
        if found < announced:
            raise SourceError(
                f"{self._url}: the TIFF is truncated, it announces {announced} sections, but {found} are there; copy "
                "it again."
            )
        return _Stack(axes=axes, pages=[page], contiguous=start)

    def _order_planes(self, stack: _Stack) -> AxisOrder:
        first = stack.pages[0]
        extents = [extent for _, extent in stack.axes]
        names: list[Any] | None = [name for name, _ in stack.axes]
        if names == [None]:
            names = ["Z"]
        shape = [*extents, int(first.imagelength), int(first.imagewidth)]
        order = order_axes(
            self._url,
            shape,
            names=None if names is None else [*names, "Y", "X"],
            # Samples of a page are chosen when it is read.
            channel=self._options.channel if first.samplesperpixel == 1 else None,
            time=self._options.time,
        )
        self._planes = order.planes(extents)
        return order

    def _describe(self, stack: _Stack) -> SourceInfo:
        first = stack.pages[0]
        self._tags = [
            value_tags(page, self._url if number == 0 else f"{self._url} page {number}")
            for number, page in enumerate(stack.pages)
        ]
        tags = self._tags[0]
        stored = stored_dtype(first, self._url)
        dtype = tags.dtype(stored, labels=self._options.labels)
        shape_yx = tags.shape(int(first.imagelength), int(first.imagewidth))
        oriented = []
        for number, (page, page_tags) in enumerate(zip(stack.pages, self._tags, strict=True)):
            where = self._url if number == 0 else f"{self._url} page {number}"
            page_shape = page_tags.shape(int(page.imagelength), int(page.imagewidth))
            if page_shape != shape_yx:
                raise SourceError(
                    f"{self._url}: page {number} is {page_shape[1]} × {page_shape[0]} pixels, but page 0 is "
                    f"{shape_yx[1]} × {shape_yx[0]}; bring all sections to one size."
                )
            page_dtype = page_tags.dtype(stored_dtype(page, where), labels=self._options.labels)
            if page_dtype != dtype:
                raise SourceError(
                    f"{self._url}: page {number} is {page_dtype}, but page 0 is {dtype}; bring them to one type."
                )
            if page_tags.channels != tags.channels:
                raise SourceError(
                    f"{where}: has {plural(page_tags.channels, 'channel')}, but page 0 has {tags.channels}; bring "
                    "all sections to one type."
                )
            oriented.append(page_tags.orientation)
        planes = self._planes[0]
        labels = imagej_labels(self._opened)
        names = tuple(labels[plane] for plane in planes) if len(labels) > max(planes, default=0) else ()
        self.missing = missing_parts(stack.pages, self._url)
        notes = [*self._order.notes, *stack.notes, *self.missing]
        if any(orientation != 1 for orientation in oriented):
            notes.append(f"{self._url}: the orientation tag of its pages is applied.")
        return SourceInfo(
            shape=(len(planes), *shape_yx),
            dtype=dtype,
            sizes=sizes(self._opened),
            channels=self._channel_names(tags.channels),
            names=names if any(names) else (),
            notes=tuple(notes),
        )

    def _channel_names(self, samples: int) -> tuple[str, ...]:
        """Return the name of each channel, of pages or of samples of a page; () for one channel."""
        count = max(samples, self._order.stored_channels)
        if count == 1:
            return ()
        names = ome_channels(self._opened.ome_metadata or "") if self._opened.is_ome else []
        return tuple(names) if len(names) == count else ("",) * count

    def _rows(self, z: int, y_start: int, y_stop: int) -> AnyArray:
        values = self._plane_rows(self._planes[0][z], y_start, y_stop)[0]
        others = (self._plane_rows(planes[z], y_start, y_stop)[0] for planes in self._planes[1:])
        if len(self._planes) > 1 and not channels_agree(values, others, count=len(self._planes)):
            count = len(self._planes)
            raise SourceError(
                f"{self._url}: its {count} channels differ (section {z}), but a volume has one; "
                f"{channel_options(count)}."
            )
        return values

    def _plane_rows(
        self, plane: int, y_start: int, y_stop: int, *, channels: Sequence[int | None] | None = None
    ) -> list[AnyArray]:
        """Return rows of a plane, of each of the channels (samples of its page); None for the chosen one."""
        page = self._planes_there.pages[plane if self._planes_there.contiguous is None else 0]
        tags = self._tags[plane if self._planes_there.contiguous is None else 0]
        where = f"{self._url} page {plane}" if len(self._planes_there.pages) > 1 else self._url
        if self._planes_there.contiguous is not None and tags.orientation == 1:
            values = self._contiguous_rows(page, plane, y_start, y_stop)
            return self._grey(values, tags, where, channels)
        if self._planes_there.contiguous is not None:
            values = self._contiguous_rows(page, plane, 0, int(page.imagelength))
        else:
            values = np.asarray(page.asarray())
            if tags.channels > 1 and tags.separate:
                values = np.moveaxis(values, 0, -1)
        if tags.orientation == 1:
            values = values[y_start:y_stop]
        grey = self._grey(values, tags, where, channels)
        return grey if tags.orientation == 1 else [upright[y_start:y_stop] for upright in grey]

    def _grey(
        self, values: AnyArray, tags: ValueTags, where: str, channels: Sequence[int | None] | None
    ) -> list[AnyArray]:
        if tags.plain:
            return [values]
        wanted = channels or [self._options.channel if tags.channels > 1 else None]
        return [grey_values(values, tags, where, labels=self._options.labels, channel=channel) for channel in wanted]

    def _contiguous_rows(self, page: Any, plane: int, y_start: int, y_stop: int) -> AnyArray:
        start = self._planes_there.contiguous or 0
        height, width = int(page.imagelength), int(page.imagewidth)
        stored = np.dtype(page.dtype).newbyteorder(self._opened.byteorder)
        count = (y_stop - y_start) * width
        self._opened.filehandle.seek(start + (plane * height + y_start) * width * stored.itemsize)
        content = self._opened.filehandle.read(count * stored.itemsize)
        return np.frombuffer(content, stored, count).reshape(y_stop - y_start, width)
