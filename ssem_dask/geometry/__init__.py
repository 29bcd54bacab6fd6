"""Integer geometry: boxes, chunks, windows and mips. No arrays."""
