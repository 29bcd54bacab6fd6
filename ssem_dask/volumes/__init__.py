"""Whole volumes: import, export, warp, and use of a finished run."""
