"""The chain of directories of a TIFF file, followed to the 0 that ends it.

A decoder stops quietly at a directory that it cannot read. So a stack whose copy broke off would be a shorter stack:
writers in the manner of libtiff store the pixels of a page before its directory.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tifffile

from ssem_dask.errors import SourceError
from ssem_dask.storage.formats.chunk_count import missing_note
from ssem_dask.storage.formats.source import refuse_bomb, refuse_overlong_image


def check_chain(tiff: tifffile.TiffFile, where: str) -> int:
    """Return the number of directories of a file.

    Raises:
        SourceError: the chain leads beyond the end of the file, or back to an earlier directory.
    """
    form: Any = tiff.tiff
    file, size = tiff.filehandle, tiff.filehandle.size
    order = "<" if form.byteorder == "<" else ">"
    kind = "little" if order == "<" else "big"

    def number(at: int, count: int) -> int:
        file.seek(at)
        return int.from_bytes(file.read(count), kind)  # type: ignore[arg-type]

    offset = number(8 if form.is_bigtiff else 4, form.offsetsize)
    seen: set[int] = set()
    while offset:
        # A directory: number of tags, tags, offset of the next directory.
        end = offset + form.tagnosize
        if end <= size:
            end += number(offset, form.tagnosize) * form.tagsize + form.offsetsize
        if end > size:
            raise SourceError(
                f"{where}: the TIFF is truncated, directory {len(seen) + 1} is at byte {offset}, but the file ends "
                "at byte "
                f"{size}, after {len(seen)} whole pages; copy it again."
            )
        if offset in seen:
            raise SourceError(
                f"{where}: the TIFF is damaged, directory {len(seen) + 1} leads back to an earlier one; export it "
                "again."
            )
        seen.add(offset)
        offset = number(end - form.offsetsize, form.offsetsize)
    if not seen:
        raise SourceError(f"{where}: the TIFF has no directory, its writer did not finish it; export it again.")
    return len(seen)


def check_data(page: Any, where: str, *, size: int) -> None:
    """Raise SourceError if tags point beyond the end of the file of `size` bytes: readers fill with zeros there."""
    ends = (a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=False))
    end = max(ends, default=0)
    if end > size:
        raise SourceError(
            f"{where}: the TIFF is truncated, it has {size} bytes where its tags ask for {end}; copy it again."
        )
    if page.dtype is not None:
        declared = math.prod(page.shape) * np.dtype(page.dtype).itemsize
        stored = sum(page.databytecounts)
        refuse_bomb(where, declared=declared, stored=stored)
        refuse_overlong_image(where, declared=declared, stored=stored)


def missing_parts(pages: Sequence[Any], where: str) -> tuple[str, ...]:
    """Return a remark about tiles and strips without data, which sparse writers leave out, and those that broke off."""
    counts = [count for page in pages for count in page.databytecounts]
    stored = sum(count > 0 for count in counts)
    return missing_note(where, stored=stored, expected=len(counts), unit="tile")


def unread_note(where: str, pages: Sequence[Any], read: Sequence[Any]) -> tuple[str, ...]:
    """Return a remark about pages of a file that its metadata do not announce; () if they announce all of them.

    Args:
        where: the file, for the remark.
        pages: pages of the file.
        read: pages that are read; those in other files have no pages left over.
    """
    alone = all(page.parent.filehandle is pages[0].parent.filehandle for page in read)
    if not alone or len(pages) <= len(read):
        return ()
    return (f"{where}: has {len(pages)} pages, of which the {len(read)} are read that its OME-XML announces.",)
