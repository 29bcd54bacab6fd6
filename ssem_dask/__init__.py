"""Alignment of serial-section electron microscopy volumes."""

__version__ = "0.1.0"
