"""Kernels that warp features of the moving sections, and measure their distance from those of the fixed ones."""

import triton
import triton.language as tl


@triton.jit
def warp_features(
    features,
    valid,
    pairs,
    u,
    warped,
    seen,
    partial,
    h,
    w,
    ny,
    nx,
    first_y,
    first_x,
    step,
    channels: tl.constexpr,
    block: tl.constexpr,
):
    """Compute B(x + u) and where both sections are valid; for each program sum e and count the valid px.

    Args:
        features: `(z, c, h, w)`.
        valid: `(z, h, w)` float, 0 or 1.
        pairs: `(n, 2)` int32.
        u: `(n, 2, ny, nx)`, px of the level.
        warped: `(n, c, h, w)`, written.
        seen: `(n, h, w)` int8, written: 1 where the pixel counts.
        partial: `(n, programs, 2)`, written.
        h, w: px of the level.
        ny, nx: nodes.
        first_y, first_x: index of pixel 0 on the nodes.
        step: nodes per px.
        channels: c.
        block: px per program.
    """
    pair = tl.program_id(1).to(tl.int64)
    fixed = tl.load(pairs + 2 * pair).to(tl.int64)
    moving = tl.load(pairs + 2 * pair + 1).to(tl.int64)
    area = h * w
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    here = pixel < area
    y = pixel // w
    x = pixel % w

    row = tl.minimum(tl.maximum(first_y + y.to(tl.float32) * step, 0.0), ny - 1.0)
    column = tl.minimum(tl.maximum(first_x + x.to(tl.float32) * step, 0.0), nx - 1.0)
    i = tl.minimum(row.to(tl.int32), ny - 2)
    j = tl.minimum(column.to(tl.int32), nx - 2)
    ty = row - i.to(tl.float32)
    tx = column - j.to(tl.float32)
    node = u + pair * 2 * ny * nx + i * nx + j
    uy = (1 - ty) * ((1 - tx) * tl.load(node, mask=here, other=0.0) + tx * tl.load(node + 1, mask=here, other=0.0)) + (
        ty * ((1 - tx) * tl.load(node + nx, mask=here, other=0.0) + tx * tl.load(node + nx + 1, mask=here, other=0.0))
    )
    node += ny * nx
    ux = (1 - ty) * ((1 - tx) * tl.load(node, mask=here, other=0.0) + tx * tl.load(node + 1, mask=here, other=0.0)) + (
        ty * ((1 - tx) * tl.load(node + nx, mask=here, other=0.0) + tx * tl.load(node + nx + 1, mask=here, other=0.0))
    )

    sy = y.to(tl.float32) + uy
    sx = x.to(tl.float32) + ux
    inside = here & (sy >= -0.5) & (sy <= h - 0.5) & (sx >= -0.5) & (sx <= w - 0.5)
    sy = tl.minimum(tl.maximum(sy, 0.0), h - 1.0)
    sx = tl.minimum(tl.maximum(sx, 0.0), w - 1.0)
    top = sy.to(tl.int32)
    left = sx.to(tl.int32)
    fy = sy - top.to(tl.float32)
    fx = sx - left.to(tl.float32)
    below = tl.minimum(top + 1, h - 1)
    right = tl.minimum(left + 1, w - 1)
    a = (1 - fy) * (1 - fx)
    b = (1 - fy) * fx
    c = fy * (1 - fx)
    d = fy * fx
    p = top * w + left
    q = top * w + right
    r = below * w + left
    s = below * w + right

    mask = valid + moving * area
    known = (
        a * tl.load(mask + p, mask=here, other=0.0).to(tl.float32)
        + b * tl.load(mask + q, mask=here, other=0.0).to(tl.float32)
        + c * tl.load(mask + r, mask=here, other=0.0).to(tl.float32)
        + d * tl.load(mask + s, mask=here, other=0.0).to(tl.float32)
    )
    counts = inside & (known > 0.5) & (tl.load(valid + fixed * area + pixel, mask=here, other=0.0) > 0.5)
    error = tl.zeros([block], dtype=tl.float32)
    for channel in tl.static_range(channels):
        source = features + (moving * channels + channel) * area
        value = (
            a * tl.load(source + p, mask=here, other=0.0).to(tl.float32)
            + b * tl.load(source + q, mask=here, other=0.0).to(tl.float32)
            + c * tl.load(source + r, mask=here, other=0.0).to(tl.float32)
            + d * tl.load(source + s, mask=here, other=0.0).to(tl.float32)
        )
        tl.store(warped + (pair * channels + channel) * area + pixel, value, mask=here)
        difference = value - tl.load(features + (fixed * channels + channel) * area + pixel, mask=here, other=0.0).to(
            tl.float32
        )
        error += difference * difference
    tl.store(seen + pair * area + pixel, counts.to(tl.int8), mask=here)
    programs = tl.num_programs(0)
    out = partial + (pair * programs + tl.program_id(0)) * 2
    tl.store(out, tl.sum(tl.where(counts, error, 0.0)))
    tl.store(out + 1, tl.sum(counts.to(tl.float32)))


@triton.jit
def mean_error(partial, moments, given, programs, block: tl.constexpr):
    """Compute each pair's ē: the first of `given` `(2,)`, or the mean of e over its valid px if that is 0.

    ē and the number of valid px are written to `moments` `(n, 2)`.
    """
    pair = tl.program_id(0).to(tl.int64)
    error = tl.zeros([block], dtype=tl.float32)
    count = tl.zeros([block], dtype=tl.float32)
    for start in range(0, programs, block):
        index = start + tl.arange(0, block)
        here = index < programs
        error += tl.load(partial + (pair * programs + index) * 2, mask=here, other=0.0)
        count += tl.load(partial + (pair * programs + index) * 2 + 1, mask=here, other=0.0)
    total = tl.maximum(tl.sum(count), 1.0)
    typical = tl.load(given)
    tl.store(moments + pair * 2, tl.where(typical > 0.0, typical, tl.sum(error) / total))
    tl.store(moments + pair * 2 + 1, total)
