"""Whole-section affines between neighbours, from thumbnails, and one affine per section from them."""
