"""Kernels of the normal equations: sums over the cells between nodes, then over the nodes."""

import triton
import triton.language as tl

from ssem_dask.registration.triton.kernels import NODE_COUNTS


@triton.jit
def cell_sums(
    features,
    pairs,
    warped,
    seen,
    moments,
    sums,
    cutoff,
    h,
    w,
    offset_y,
    offset_x,
    first_y,
    first_x,
    channels: tl.constexpr,
    ratio: tl.constexpr,
    cells: tl.constexpr,
):
    """Sum the contributions of every cell between four nodes to T and b of these nodes.

    A cell is `ratio` px wide, and a pixel belongs to one cell, so no two programs add to the same number.

    Args:
        features: `(z, c, h, w)`.
        pairs: `(n, 2)`.
        warped: `(n, c, h, w)`.
        seen: `(n, h, w)`.
        moments: `(n, 2)`.
        sums: `(n, 20, ny - 1, nx - 1)`, written: for each of yy, yx, xx, by, bx the shares of the nodes above left,
            above right, below left and below right.
        cutoff: rc.
        h, w: px of the level.
        offset_y, offset_x: first pixel of cell 0; may be below 0.
        first_y, first_x: index of pixel 0 on the nodes.
        channels: c.
        ratio: px along a cell, a power of two.
        cells: cells per program, along x.
    """
    pair = tl.program_id(2).to(tl.int64)
    cy = tl.program_id(1)
    ncx = tl.cdiv(w - offset_x, ratio)
    fixed = tl.load(pairs + 2 * pair).to(tl.int64)
    area = h * w
    width: tl.constexpr = cells * ratio
    column = tl.program_id(0) * width + tl.arange(0, width)
    y = (cy * ratio + offset_y + tl.arange(0, ratio))[:, None]
    x = (column + offset_x)[None, :]
    here = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    up = tl.maximum(y - 1, 0)
    down = tl.minimum(y + 1, h - 1)
    left = tl.maximum(x - 1, 0)
    right = tl.minimum(x + 1, w - 1)
    half_y = 0.5 / tl.maximum(down - up, 1).to(tl.float32)
    half_x = 0.5 / tl.maximum(right - left, 1).to(tl.float32)
    yy = tl.zeros([ratio, width], dtype=tl.float32)
    yx = tl.zeros([ratio, width], dtype=tl.float32)
    xx = tl.zeros([ratio, width], dtype=tl.float32)
    by = tl.zeros([ratio, width], dtype=tl.float32)
    bx = tl.zeros([ratio, width], dtype=tl.float32)
    error = tl.zeros([ratio, width], dtype=tl.float32)
    centre = y * w + x
    above = up * w + x
    under = down * w + x
    before = y * w + left
    after = y * w + right
    for channel in tl.static_range(channels):
        a = features + (fixed * channels + channel) * area
        b = warped + (pair * channels + channel) * area
        gy = half_y * (
            tl.load(a + under, mask=here, other=0.0).to(tl.float32)
            - tl.load(a + above, mask=here, other=0.0).to(tl.float32)
            + tl.load(b + under, mask=here, other=0.0).to(tl.float32)
            - tl.load(b + above, mask=here, other=0.0).to(tl.float32)
        )
        gx = half_x * (
            tl.load(a + after, mask=here, other=0.0).to(tl.float32)
            - tl.load(a + before, mask=here, other=0.0).to(tl.float32)
            + tl.load(b + after, mask=here, other=0.0).to(tl.float32)
            - tl.load(b + before, mask=here, other=0.0).to(tl.float32)
        )
        r = tl.load(b + centre, mask=here, other=0.0).to(tl.float32) - tl.load(a + centre, mask=here, other=0.0).to(
            tl.float32
        )
        error += r * r
        yy += gy * gy
        yx += gy * gx
        xx += gx * gx
        by += gy * r
        bx += gx * r
    limit = tl.maximum(cutoff * cutoff * tl.load(moments + pair * 2), 1e-12)
    relative = 1.0 + error / limit
    counts = tl.load(seen + pair * area + centre, mask=here, other=0)
    weight = tl.where(counts > 0, 1.0 / (relative * relative), 0.0)
    ty = first_y + y.to(tl.float32) / ratio - cy
    tx = first_x + (column + offset_x).to(tl.float32) / ratio - (column // ratio).to(tl.float32)
    plane = tl.num_programs(1) * ncx
    cx = tl.program_id(0) * cells + tl.arange(0, cells)
    out = sums + pair * 20 * plane + cy * ncx + cx
    wanted = cx < ncx
    _store_corners(out, yy * weight, ty, tx, plane, wanted, cells, ratio)
    _store_corners(out + 4 * plane, yx * weight, ty, tx, plane, wanted, cells, ratio)
    _store_corners(out + 8 * plane, xx * weight, ty, tx, plane, wanted, cells, ratio)
    _store_corners(out + 12 * plane, by * weight, ty, tx, plane, wanted, cells, ratio)
    _store_corners(out + 16 * plane, bx * weight, ty, tx, plane, wanted, cells, ratio)


@triton.jit
def _store_corners(out, value, ty, tx, plane, wanted, cells: tl.constexpr, ratio: tl.constexpr):
    """Sum `value` `(y, x)` over every cell, weighted with the four corners' functions."""
    upper = tl.sum(value * (1 - ty), axis=0)
    lower = tl.sum(value * ty, axis=0)
    tl.store(out, tl.sum(tl.reshape(upper * (1 - tx), [cells, ratio]), axis=1), mask=wanted)
    tl.store(out + plane, tl.sum(tl.reshape(upper * tx, [cells, ratio]), axis=1), mask=wanted)
    tl.store(out + 2 * plane, tl.sum(tl.reshape(lower * (1 - tx), [cells, ratio]), axis=1), mask=wanted)
    tl.store(out + 3 * plane, tl.sum(tl.reshape(lower * tx, [cells, ratio]), axis=1), mask=wanted)


@triton.jit(do_not_specialize=NODE_COUNTS)
def node_sums(sums, equations, traces, ny, nx, ncy, ncx, block: tl.constexpr):
    """Add the sums of the cells to T and b.

    Args:
        sums: `(n, 20, ncy, ncx)`.
        equations: `(n, 5, ny, nx)`, written: yy, yx, xx, by, bx.
        traces: `(n, programs, 2)`, written: sums of yy and of xx over the program's nodes.
        ny, nx: nodes.
        ncy, ncx: cells that contain px, at most one less than nodes.
        block: nodes per program.
    """
    pair = tl.program_id(1).to(tl.int64)
    node = tl.program_id(0) * block + tl.arange(0, block)
    here = node < ny * nx
    i = node // nx
    j = node % nx
    plane = ncy * ncx
    out = traces + (pair * tl.num_programs(0) + tl.program_id(0)) * 2
    for quantity in tl.static_range(5):
        base = sums + (pair * 20 + quantity * 4) * plane
        value = tl.load(base + i * ncx + j, mask=here & (i < ncy) & (j < ncx), other=0.0)
        value += tl.load(base + plane + i * ncx + j - 1, mask=here & (i < ncy) & (j >= 1) & (j - 1 < ncx), other=0.0)
        value += tl.load(
            base + 2 * plane + (i - 1) * ncx + j, mask=here & (i >= 1) & (i - 1 < ncy) & (j < ncx), other=0.0
        )
        value += tl.load(
            base + 3 * plane + (i - 1) * ncx + j - 1,
            mask=here & (i >= 1) & (i - 1 < ncy) & (j >= 1) & (j - 1 < ncx),
            other=0.0,
        )
        tl.store(equations + (pair * 5 + quantity) * ny * nx + node, value, mask=here)
        if quantity == 0:
            tl.store(out, tl.sum(value))
        if quantity == 2:
            tl.store(out + 1, tl.sum(value))
