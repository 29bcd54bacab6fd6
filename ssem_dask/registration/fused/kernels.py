"""Triton kernels of one Gauss-Newton step on nodes; what they compute is said in `normal_equations`.

A level has features `(z, c, h, w)` and `valid` `(z, h, w)` of all sections of a window; `pairs` `(n, 2)` int32 names
the fixed and the moving section of every pair, so that nothing is copied. Displacements, right sides and directions are
`(n, 2, ny, nx)` float32. Sums over a pair are written as one number a program and added up by whoever needs them, in
the same order always: results do not depend on timing. All arithmetic is float32, whatever the features are stored as.

Each kernel runs in Triton's interpreter on a CPU too, which is how the tests run it.
"""

import triton
import triton.language as tl

# Arguments whose divisibility is not compiled in: every level has others, and compiling costs more than it saves.
_NODE_COUNTS = ["ny", "nx", "ncy", "ncx", "programs"]


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
    """B(x + u) and where both sections are valid; of every program the sum of e and the number of valid px.

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
        block: px a program.
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
    """Of every pair ē, as `given` `(2,)` first or else the mean of e over its valid px, and their number: `moments`
    `(n, 2)`, written.
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
    """What the px of every cell between four nodes add to T and b of these nodes.

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
        offset_y, offset_x: the first pixel of cell 0; may be below 0.
        first_y, first_x: index of pixel 0 on the nodes.
        channels: c.
        ratio: px along a cell, a power of two.
        cells: cells a program, along x.
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
    """Sums of `value` `(y, x)` over every cell, weighted with the four corners' functions."""
    upper = tl.sum(value * (1 - ty), axis=0)
    lower = tl.sum(value * ty, axis=0)
    tl.store(out, tl.sum(tl.reshape(upper * (1 - tx), [cells, ratio]), axis=1), mask=wanted)
    tl.store(out + plane, tl.sum(tl.reshape(upper * tx, [cells, ratio]), axis=1), mask=wanted)
    tl.store(out + 2 * plane, tl.sum(tl.reshape(lower * (1 - tx), [cells, ratio]), axis=1), mask=wanted)
    tl.store(out + 3 * plane, tl.sum(tl.reshape(lower * tx, [cells, ratio]), axis=1), mask=wanted)


@triton.jit(do_not_specialize=_NODE_COUNTS)
def node_sums(sums, equations, traces, ny, nx, ncy, ncx, block: tl.constexpr):
    """T and b from the sums of the cells.

    Args:
        sums: `(n, 20, ncy, ncx)`.
        equations: `(n, 5, ny, nx)`, written: yy, yx, xx, by, bx.
        traces: `(n, programs, 2)`, written: sums of yy and of xx over the program's nodes.
        ny, nx: nodes.
        ncy, ncx: cells that hold px, at most one less.
        block: nodes a program.
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


@triton.jit
def _total(partial, pair, programs, stride: tl.constexpr, block: tl.constexpr):
    """Sum of a pair's partial sums."""
    index = tl.arange(0, block)
    return tl.sum(tl.load(partial + (pair * programs + index) * stride, mask=index < programs, other=0.0))


@triton.jit
def _at(a, b, scale, i, j, ny, nx, here):
    """a + scale · b at node (i, j), 0 beyond the border."""
    inside = here & (i >= 0) & (i < ny) & (j >= 0) & (j < nx)
    offset = i * nx + j
    return tl.load(a + offset, mask=inside, other=0.0) + scale * tl.load(b + offset, mask=inside, other=0.0)


@triton.jit
def _curvature(a, b, scale, i, j, ny, nx, here):
    """R v and v at the nodes (i, j), for v = a + scale · b; see `regularisation.curvature`."""
    c = _at(a, b, scale, i, j, ny, nx, here)
    n = _at(a, b, scale, i - 1, j, ny, nx, here)
    s = _at(a, b, scale, i + 1, j, ny, nx, here)
    w = _at(a, b, scale, i, j - 1, ny, nx, here)
    e = _at(a, b, scale, i, j + 1, ny, nx, here)
    out = tl.where(i >= 2, _at(a, b, scale, i - 2, j, ny, nx, here) - 2.0 * n + c, 0.0)
    out -= 2.0 * tl.where((i >= 1) & (i <= ny - 2), n - 2.0 * c + s, 0.0)
    out += tl.where(i <= ny - 3, c - 2.0 * s + _at(a, b, scale, i + 2, j, ny, nx, here), 0.0)
    out += tl.where(j >= 2, _at(a, b, scale, i, j - 2, ny, nx, here) - 2.0 * w + c, 0.0)
    out -= 2.0 * tl.where((j >= 1) & (j <= nx - 2), w - 2.0 * c + e, 0.0)
    out += tl.where(j <= nx - 3, c - 2.0 * e + _at(a, b, scale, i, j + 2, ny, nx, here), 0.0)
    nw = _at(a, b, scale, i - 1, j - 1, ny, nx, here)
    ne = _at(a, b, scale, i - 1, j + 1, ny, nx, here)
    sw = _at(a, b, scale, i + 1, j - 1, ny, nx, here)
    se = _at(a, b, scale, i + 1, j + 1, ny, nx, here)
    out += 2.0 * tl.where((i >= 1) & (j >= 1), c - w - n + nw, 0.0)
    out -= 2.0 * tl.where((i >= 1) & (j <= nx - 2), e - c - ne + n, 0.0)
    out -= 2.0 * tl.where((i <= ny - 2) & (j >= 1), s - sw - c + w, 0.0)
    out += 2.0 * tl.where((i <= ny - 2) & (j <= nx - 2), se - s - e + c, 0.0)
    return out, c


@triton.jit(do_not_specialize=_NODE_COUNTS)
def right_side(
    equations,
    traces,
    moments,
    given,
    u,
    smooth,
    relative,
    left,
    scales,
    ny,
    nx,
    cell,
    damping,
    programs,
    block: tl.constexpr,
    reduce: tl.constexpr,
):
    """-b - c₂ R (u - smooth), and what the other kernels scale with.

    Args:
        equations: `(n, 5, ny, nx)`.
        traces: `(n, programs, 2)`.
        moments: `(n, 2)`.
        given: `(2,)`: h̄ last; 0: each pair's own.
        u: `(n, 2, ny, nx)`.
        smooth: the same: what u is smooth relative to.
        relative: `(1,)`: (L / S)⁴.
        left: `(n, 2, ny, nx)`, written.
        scales: `(n, 4)`, written: c₂, the damping, and the diagonals of the preconditioner along y and x.
        ny, nx: nodes.
        cell: s², px.
        damping: relative to the mean of T.
        programs: a pair.
        block: nodes a program.
        reduce: a power of two of at least `programs`.
    """
    pair = tl.program_id(1).to(tl.int64)
    node = tl.program_id(0) * block + tl.arange(0, block)
    here = node < ny * nx
    i = node // nx
    j = node % nx
    yy = _total(traces, pair, programs, 2, reduce)
    xx = _total(traces + 1, pair, programs, 2, reduce)
    typical = tl.load(given + 1)
    stiffness = tl.where(typical > 0.0, typical, 0.5 * (yy + xx) / tl.load(moments + pair * 2 + 1)) * cell
    c2 = stiffness * tl.load(relative)
    epsilon = damping * stiffness
    if tl.program_id(0) == 0:
        tl.store(scales + pair * 4, c2)
        tl.store(scales + pair * 4 + 1, epsilon)
        tl.store(scales + pair * 4 + 2, tl.maximum(yy / (ny * nx) + epsilon, 1e-12))
        tl.store(scales + pair * 4 + 3, tl.maximum(xx / (ny * nx) + epsilon, 1e-12))
    for axis in tl.static_range(2):
        base = (pair * 2 + axis) * ny * nx
        bent, _value = _curvature(u + base, smooth + base, -1.0, i, j, ny, nx, here)
        b = tl.load(equations + (pair * 5 + 3 + axis) * ny * nx + node, mask=here, other=0.0)
        tl.store(left + base + node, -b - c2 * bent, mask=here)


@triton.jit(do_not_specialize=_NODE_COUNTS)
def precondition(modes, spectrum, scales, product, ny, nx, block: tl.constexpr):
    """Divide the cosine modes of a residual by the preconditioner; of every program the sum of residual · result.

    Args:
        modes: `(n, 2, ny, nx)`, overwritten.
        spectrum: `(ny, nx)`.
        scales: `(n, 4)`.
        product: `(n, programs)`, written.
        ny, nx: nodes.
        block: nodes a program.
    """
    pair = tl.program_id(1).to(tl.int64)
    node = tl.program_id(0) * block + tl.arange(0, block)
    here = node < ny * nx
    bending = tl.load(scales + pair * 4) * tl.load(spectrum + node, mask=here, other=0.0)
    total = tl.zeros([block], dtype=tl.float32)
    for axis in tl.static_range(2):
        at = modes + (pair * 2 + axis) * ny * nx + node
        value = tl.load(at, mask=here, other=0.0)
        scaled = value / (tl.load(scales + pair * 4 + 2 + axis) + bending)
        total += tl.where(here, value * scaled, 0.0)
        tl.store(at, scaled, mask=here)
    tl.store(product + pair * tl.num_programs(0) + tl.program_id(0), tl.sum(total))


@triton.jit(do_not_specialize=_NODE_COUNTS)
def apply_system(
    equations,
    scales,
    scaled,
    previous,
    direction,
    applied,
    product,
    product_before,
    energy,
    ny,
    nx,
    programs,
    first: tl.constexpr,
    block: tl.constexpr,
    reduce: tl.constexpr,
):
    """The next direction of conjugate gradients, and the system applied to it.

    Args:
        equations: `(n, 5, ny, nx)`.
        scales: `(n, 4)`.
        scaled: the preconditioned residual `(n, 2, ny, nx)`.
        previous: the last direction.
        direction: written.
        applied: written.
        product: `(n, programs)`: residual · scaled.
        product_before: of the iteration before.
        energy: `(n, programs)`, written: direction · applied.
        ny, nx: nodes.
        programs: a pair.
        first: whether there is no last direction.
        block: nodes a program.
        reduce: a power of two of at least `programs`.
    """
    pair = tl.program_id(1).to(tl.int64)
    node = tl.program_id(0) * block + tl.arange(0, block)
    here = node < ny * nx
    i = node // nx
    j = node % nx
    plane = ny * nx
    base = pair * 2 * plane
    if first:
        beta = 0.0
    else:
        beta = _total(product, pair, programs, 1, reduce) / tl.maximum(
            _total(product_before, pair, programs, 1, reduce), 1e-30
        )
    c2 = tl.load(scales + pair * 4)
    epsilon = tl.load(scales + pair * 4 + 1)
    bent_y, y = _curvature(scaled + base, previous + base, beta, i, j, ny, nx, here)
    bent_x, x = _curvature(scaled + base + plane, previous + base + plane, beta, i, j, ny, nx, here)
    at = equations + pair * 5 * plane + node
    yx = tl.load(at + plane, mask=here, other=0.0)
    out_y = tl.load(at, mask=here, other=0.0) * y + yx * x + c2 * bent_y + epsilon * y
    out_x = yx * y + tl.load(at + 2 * plane, mask=here, other=0.0) * x + c2 * bent_x + epsilon * x
    tl.store(direction + base + node, y, mask=here)
    tl.store(direction + base + plane + node, x, mask=here)
    tl.store(applied + base + node, out_y, mask=here)
    tl.store(applied + base + plane + node, out_x, mask=here)
    tl.store(energy + pair * programs + tl.program_id(0), tl.sum(tl.where(here, y * out_y + x * out_x, 0.0)))


@triton.jit(do_not_specialize=_NODE_COUNTS)
def advance(
    step,
    left,
    direction,
    applied,
    product,
    energy,
    u,
    ny,
    nx,
    programs,
    largest,
    first: tl.constexpr,
    last: tl.constexpr,
    block: tl.constexpr,
    reduce: tl.constexpr,
):
    """One step along a direction; at the last one u is moved by all of them, by no more than `largest` px.

    Args:
        step: δ so far `(n, 2, ny, nx)`, changed.
        left: the residual, changed.
        direction: of this step.
        applied: the system applied to it.
        product: `(n, programs)`: residual · scaled.
        energy: `(n, programs)`: direction · applied.
        u: `(n, 2, ny, nx)`, changed at the last step.
        ny, nx: nodes.
        programs: a pair.
        largest: px of the level.
        first: whether δ is 0 so far.
        last: whether this ends the iteration.
        block: nodes a program.
        reduce: a power of two of at least `programs`.
    """
    pair = tl.program_id(1).to(tl.int64)
    node = tl.program_id(0) * block + tl.arange(0, block)
    here = node < ny * nx
    plane = ny * nx
    at = pair * 2 * plane + node
    length = _total(product, pair, programs, 1, reduce) / tl.maximum(_total(energy, pair, programs, 1, reduce), 1e-30)
    y = length * tl.load(direction + at, mask=here, other=0.0)
    x = length * tl.load(direction + at + plane, mask=here, other=0.0)
    if not first:
        y += tl.load(step + at, mask=here, other=0.0)
        x += tl.load(step + at + plane, mask=here, other=0.0)
    if last:
        share = largest / tl.maximum(tl.sqrt(y * y + x * x), largest)
        tl.store(u + at, tl.load(u + at, mask=here, other=0.0) + y * share, mask=here)
        tl.store(u + at + plane, tl.load(u + at + plane, mask=here, other=0.0) + x * share, mask=here)
    else:
        tl.store(step + at, y, mask=here)
        tl.store(step + at + plane, x, mask=here)
        r = tl.load(left + at, mask=here, other=0.0) - length * tl.load(applied + at, mask=here, other=0.0)
        tl.store(left + at, r, mask=here)
        r = tl.load(left + at + plane, mask=here, other=0.0) - length * tl.load(
            applied + at + plane, mask=here, other=0.0
        )
        tl.store(left + at + plane, r, mask=here)


@triton.jit
def evidence_maps(
    features, pairs, warped, seen, moments, maps, cutoff, h, w, channels: tl.constexpr, block: tl.constexpr
):
    """What `confidence.evidence` averages, px by px.

    Args:
        features: `(z, c, h, w)`.
        pairs: `(n, 2)`.
        warped: `(n, c, h, w)`.
        seen: `(n, h, w)`.
        moments: `(n, 2)`.
        maps: `(n, 2 c + 5, h, w)` float32, written: a, b, a·b, a·a, b·b, the Hessian and 1, each 0 where not seen.
        cutoff: rc.
        h, w: px of the level.
        channels: c.
        block: px a program.
    """
    pair = tl.program_id(1).to(tl.int64)
    fixed = tl.load(pairs + 2 * pair).to(tl.int64)
    area = h * w
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    here = pixel < area
    y = pixel // w
    x = pixel % w
    up = tl.maximum(y - 1, 0)
    down = tl.minimum(y + 1, h - 1)
    left = tl.maximum(x - 1, 0)
    right = tl.minimum(x + 1, w - 1)
    half_y = 0.5 / tl.maximum(down - up, 1).to(tl.float32)
    half_x = 0.5 / tl.maximum(right - left, 1).to(tl.float32)
    counts = here & (tl.load(seen + pair * area + pixel, mask=here, other=0) > 0)
    out = maps + pair * (2 * channels + 5) * area + pixel
    ab = tl.zeros([block], dtype=tl.float32)
    aa = tl.zeros([block], dtype=tl.float32)
    bb = tl.zeros([block], dtype=tl.float32)
    error = tl.zeros([block], dtype=tl.float32)
    slope = tl.zeros([block], dtype=tl.float32)
    for channel in tl.static_range(channels):
        a = features + (fixed * channels + channel) * area
        b = warped + (pair * channels + channel) * area
        va = tl.load(a + pixel, mask=here, other=0.0).to(tl.float32)
        vb = tl.load(b + pixel, mask=here, other=0.0).to(tl.float32)
        gy = half_y * (
            tl.load(a + down * w + x, mask=here, other=0.0).to(tl.float32)
            - tl.load(a + up * w + x, mask=here, other=0.0).to(tl.float32)
            + tl.load(b + down * w + x, mask=here, other=0.0).to(tl.float32)
            - tl.load(b + up * w + x, mask=here, other=0.0).to(tl.float32)
        )
        gx = half_x * (
            tl.load(a + y * w + right, mask=here, other=0.0).to(tl.float32)
            - tl.load(a + y * w + left, mask=here, other=0.0).to(tl.float32)
            + tl.load(b + y * w + right, mask=here, other=0.0).to(tl.float32)
            - tl.load(b + y * w + left, mask=here, other=0.0).to(tl.float32)
        )
        slope += gy * gy + gx * gx
        error += (vb - va) * (vb - va)
        ab += va * vb
        aa += va * va
        bb += vb * vb
        tl.store(out + channel * area, tl.where(counts, va, 0.0), mask=here)
        tl.store(out + (channels + channel) * area, tl.where(counts, vb, 0.0), mask=here)
    out += 2 * channels * area
    relative = 1.0 + error / tl.maximum(cutoff * cutoff * tl.load(moments + pair * 2), 1e-12)
    tl.store(out, tl.where(counts, ab, 0.0), mask=here)
    tl.store(out + area, tl.where(counts, aa, 0.0), mask=here)
    tl.store(out + 2 * area, tl.where(counts, bb, 0.0), mask=here)
    tl.store(out + 3 * area, tl.where(counts, 0.5 * slope / (relative * relative), 0.0), mask=here)
    tl.store(out + 4 * area, counts.to(tl.float32), mask=here)


@triton.jit
def block_moments(images, valid, moments, h, w, rows, columns, side: tl.constexpr, blocks: tl.constexpr):
    """Of every block of `side` px: how many are valid, their mean, and the sum of squares about it.

    Args:
        images: `(n, h, w)` float32.
        valid: `(n, h, w)` bool.
        moments: `(3, n, rows, columns)`, written.
        h, w: px.
        rows, columns: blocks.
        side: px along a block, a power of two.
        blocks: blocks a program, along x.
    """
    image = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1)
    width: tl.constexpr = side * blocks
    y = (row * side + tl.arange(0, side))[:, None]
    x = (tl.program_id(0) * width + tl.arange(0, width))[None, :]
    here = (y < h) & (x < w)
    at = image * h * w + y * w + x
    counts = here & (tl.load(valid + at, mask=here, other=0) != 0)
    value = tl.where(counts, tl.load(images + at, mask=here, other=0.0), 0.0)
    count = tl.sum(tl.reshape(tl.sum(counts.to(tl.float32), axis=0), [blocks, side]), axis=1)
    total = tl.sum(tl.reshape(tl.sum(value, axis=0), [blocks, side]), axis=1)
    mean = total / tl.maximum(count, 1.0)
    middle = tl.reshape(tl.broadcast_to(mean[:, None], [blocks, side]), [width])[None, :]
    offset = tl.where(counts, value - middle, 0.0)
    square = tl.sum(tl.reshape(tl.sum(offset * offset, axis=0), [blocks, side]), axis=1)
    column = tl.program_id(0) * blocks + tl.arange(0, blocks)
    wanted = column < columns
    plane = tl.num_programs(2).to(tl.int64) * rows * columns
    out = moments + (image * rows + row) * columns + column
    tl.store(out, count, mask=wanted)
    tl.store(out + plane, mean, mask=wanted)
    tl.store(out + 2 * plane, square, mask=wanted)


@triton.jit
def normalise(
    images, valid, mean, deviation, centre, spread, out, h, w, rows, columns, side, clip, block: tl.constexpr
):
    """Contrast of every px relative to mean and deviation about it, which are bilinear between the blocks.

    Args:
        images: `(n, h, w)` float32.
        valid: `(n, h, w)` bool.
        mean: `(n, rows, columns)`, of the centred and scaled image.
        deviation: the same.
        centre: `(n,)`, what the image is centred and
        spread: scaled with.
        out: `(n, h, w)` float32, written.
        h, w: px.
        rows, columns: blocks.
        side: px along a block.
        clip: largest contrast.
        block: px a program.
    """
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    here = pixel < h * w
    row = tl.maximum(((pixel // w).to(tl.float32) + 0.5) / side - 0.5, 0.0)
    column = tl.maximum(((pixel % w).to(tl.float32) + 0.5) / side - 0.5, 0.0)
    i = row.to(tl.int32)
    j = column.to(tl.int32)
    fy = row - i.to(tl.float32)
    fx = column - j.to(tl.float32)
    below = tl.minimum(i + 1, rows - 1)
    right = tl.minimum(j + 1, columns - 1)
    base = image * rows * columns
    a = (1 - fy) * (1 - fx)
    b = (1 - fy) * fx
    c = fy * (1 - fx)
    d = fy * fx
    p = base + i * columns + j
    q = base + i * columns + right
    r = base + below * columns + j
    s = base + below * columns + right
    level = (
        a * tl.load(mean + p, mask=here, other=0.0)
        + b * tl.load(mean + q, mask=here, other=0.0)
        + c * tl.load(mean + r, mask=here, other=0.0)
        + d * tl.load(mean + s, mask=here, other=0.0)
    )
    scale = (
        a * tl.load(deviation + p, mask=here, other=1.0)
        + b * tl.load(deviation + q, mask=here, other=1.0)
        + c * tl.load(deviation + r, mask=here, other=1.0)
        + d * tl.load(deviation + s, mask=here, other=1.0)
    )
    at = image * h * w + pixel
    counts = here & (tl.load(valid + at, mask=here, other=0) != 0)
    value = tl.load(images + at, mask=here, other=0.0)
    centred = (value - tl.load(centre + image)) / tl.load(spread + image)
    contrast = tl.minimum(tl.maximum((centred - level) / scale, -clip), clip)
    tl.store(out + at, tl.where(counts, contrast, 0.0), mask=here)
