"""The orientation in an EXIF block, as JPEG and PNG files have it."""

import struct

_ORIENTATION = 274


def exif_orientation(block: bytes) -> int:
    """Return the value of the orientation tag of an EXIF block, a small TIFF file; 1 if there is none."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        at = struct.unpack_from(order + "I", block, 4)[0]
        count = struct.unpack_from(order + "H", block, at)[0]
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", block, entry)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:  # a block that is cut off holds no orientation
        return 1
    return 1
