"""Displacement fields: their grids, sampling, warping, composition, inverse and folding.

A field `u` is a float32 tensor `(2, y, x)` of displacements `(dy, dx)` in mip-0 px (C1, C4). It pulls:
`warp(image, u)(p) = image(p + u(p))` (C5). NaN is unknown, 0 is identity (C8).
"""
