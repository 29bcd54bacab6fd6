"""Small frames of zstd that expand to much."""

import struct

EXPANDED = 1 << 30
"""Bytes that a bomb expands to."""


def zstd_frames(*, states_size: bool) -> bytes:
    """A frame of blocks of one repeated byte (RFC 8878): 1 GiB in 32 KiB."""
    block = 1 << 17
    count = EXPANDED // block
    if states_size:
        header = b"\x28\xb5\x2f\xfd" + bytes([0b11000000, 0x38]) + struct.pack("<Q", EXPANDED)
    else:
        header = b"\x28\xb5\x2f\xfd" + bytes([0, 0x38])
    blocks = (struct.pack("<I", (block << 3) | (1 << 1) | (i == count - 1))[:3] + b"\0" for i in range(count))
    return header + b"".join(blocks)
