"""Fields for ITK, SimpleITK, elastix and BigWarp: two files per section, and the affine map of each in a CSV file.

    OUT/
      to_source/section-00000.nrrd    (dx, dy) in nm, aligned → source: what `sitk.Resample` of a source section needs
      to_aligned/section-00000.nrrd   the inverse
                                      or section-00000.h5, a whole transform that `sitk.ReadTransform` reads
      affines.csv                     aligned → source, mip-0 px, as `[coarse] initial` reads it

ITK, like NGFF, counts from the centre of pixel 0. So an image that is resampled has its origin at 0 and the spacing of
the pixel size in nm. The CSV file counts from the corner (C3), like everything else of this package.
"""

import csv
import importlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ssem_dask.storage import location
from ssem_dask.storage.affine_file import COLUMNS
from ssem_dask.storage.exports.field_target import DIRECTIONS, DirectedField, FieldTarget, SectionExport
from ssem_dask.storage.ngff06 import FieldPlacement

AFFINES = "affines.csv"
_TRANSFORM = "DisplacementFieldTransform_double_2_2"
"""ITK's name of a 2D displacement field of doubles."""
_PARTS = "affines.parts"
"""Folder with the rows of each task, until all have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItkTarget(FieldTarget):
    """A folder of NRRD files."""

    FORM: ClassVar[str] = "itk"
    INVERTS: ClassVar[bool] = True
    SUFFIX: ClassVar[str] = "nrrd"

    def prepare(self) -> None:
        """See `FieldTarget.prepare`; folders are made with their first file."""

    def reopen(self) -> None:
        """See `FieldTarget.reopen`."""
        with location.writing(self.url):
            location.delete(location.join(self.url, AFFINES), recursive=False)

    def write(self, sections: Sequence[SectionExport], *, start: int) -> None:
        """See `FieldTarget.write`."""
        with location.writing(self.url):
            for z, section in enumerate(sections, start):
                self._write_section(section, z)
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            for z, section in enumerate(sections, start):
                if section.affine is not None:
                    writer.writerow([z, *(repr(float(value)) for value in section.affine.ravel())])
            location.write_bytes(self._part(start), text.getvalue().encode())

    def finish(self) -> None:
        """See `FieldTarget.finish`."""
        with location.writing(self.url):
            rows = b"".join(location.read_bytes(self._part(sections.start)) for sections in self.task_sections)
            location.write_bytes(location.join(self.url, AFFINES), ",".join(COLUMNS).encode() + b"\n" + rows)

    def _write_section(self, section: SectionExport, z: int) -> None:
        for direction, field in zip(DIRECTIONS, (section.to_source, section.to_aligned), strict=True):
            if field is not None:
                content = self._content(field, self.placement(direction))
                name = f"section-{z:05d}.{self.SUFFIX}"
                location.write_bytes(location.join(self.url, direction, name), content)

    def _content(self, field: DirectedField, placement: FieldPlacement) -> bytes:
        return nrrd_bytes(field, placement)

    def _part(self, start: int) -> str:
        return location.join(self.url, _PARTS, f"{start:06d}.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItkTransformTarget(ItkTarget):
    """A folder of HDF5 files, each with one transform; needs h5py."""

    FORM: ClassVar[str] = "itk-h5"
    SUFFIX: ClassVar[str] = "h5"

    def _content(self, field: DirectedField, placement: FieldPlacement) -> bytes:
        return transform_bytes(field, placement)


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineTarget(ItkTarget):
    """The affine maps alone."""

    FORM: ClassVar[str] = "affines"
    INVERTS: ClassVar[bool] = False

    def _write_section(self, section: SectionExport, z: int) -> None:
        del section, z


def transform_bytes(field: DirectedField, placement: FieldPlacement) -> bytes:
    """Return a field as a file of ITK's transforms: a displacement field of doubles, nm, in HDF5."""
    h5py = importlib.import_module("h5py")
    _, dy, dx = placement.scale
    _, y, x = placement.origin
    height, width = field.known.shape
    vectors = np.moveaxis(field.values[::-1].astype(np.float64), 0, -1) * placement.pixel_size
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        transform = file.create_group("TransformGroup/0")
        transform.create_dataset("TransformType", data=[_TRANSFORM], dtype=h5py.string_dtype("ascii"))
        transform["TransformFixedParameters"] = np.array([width, height, x, y, dx, dy, 1, 0, 0, 1], dtype=np.float64)
        transform.create_dataset("TransformParameters", data=vectors.ravel(), chunks=True, compression=4)
    return stream.getvalue()


def nrrd_bytes(field: DirectedField, placement: FieldPlacement) -> bytes:
    """Return a field as an NRRD file of 2D vectors (dx, dy) in nm, which SimpleITK reads as a vector image."""
    _, dy, dx = placement.scale
    _, y, x = placement.origin
    height, width = field.known.shape
    header = (
        "NRRD0005\n"
        "# Displacements (dx, dy), nm; a position of one image plus its displacement is one of the other.\n"
        "type: float\n"
        "dimension: 3\n"
        "space dimension: 2\n"
        f"sizes: 2 {width} {height}\n"
        f"space directions: none ({dx!r},0) (0,{dy!r})\n"
        "kinds: vector domain domain\n"
        "endian: little\n"
        "encoding: gzip\n"
        f"space origin: ({x!r},{y!r})\n"
        "\n"
    )
    vectors = np.ascontiguousarray(np.moveaxis(field.values[::-1], 0, -1) * np.float32(placement.pixel_size), "<f4")
    compressor = zlib.compressobj(level=4, wbits=31)  # 31: with the header of gzip, and no time in it
    return header.encode() + compressor.compress(vectors.tobytes()) + compressor.flush()
