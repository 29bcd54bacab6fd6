"""Kernels of the right side with its smoothness term, and of the preconditioned conjugate gradients."""

import triton
import triton.language as tl

from ssem_dask.registration.triton.kernels import NODE_COUNTS


@triton.jit
def _total(partial, pair, programs, stride: tl.constexpr, block: tl.constexpr):
    """Add a pair's partial sums."""
    index = tl.arange(0, block)
    return tl.sum(tl.load(partial + (pair * programs + index) * stride, mask=index < programs, other=0.0))


@triton.jit
def _at(a, b, scale, i, j, ny, nx, here):
    """Load a + scale · b at node (i, j), 0 beyond the border."""
    inside = here & (i >= 0) & (i < ny) & (j >= 0) & (j < nx)
    offset = i * nx + j
    return tl.load(a + offset, mask=inside, other=0.0) + scale * tl.load(b + offset, mask=inside, other=0.0)


@triton.jit
def _curvature(a, b, scale, i, j, ny, nx, here):
    """Compute R v and v at the nodes (i, j), for v = a + scale · b; see `regularisation.curvature`."""
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


@triton.jit(do_not_specialize=NODE_COUNTS)
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
    """Compute -b - c₂ R (u - smooth), and the scales that the other kernels use.

    Args:
        equations: `(n, 5, ny, nx)`.
        traces: `(n, programs, 2)`.
        moments: `(n, 2)`.
        given: `(2,)`: h̄ last; 0: each pair's own.
        u: `(n, 2, ny, nx)`.
        smooth: `(n, 2, ny, nx)`: displacements that u is smooth relative to.
        relative: `(1,)`: (L / S)⁴.
        left: `(n, 2, ny, nx)`, written.
        scales: `(n, 4)`, written: c₂, the damping, and the diagonals of the preconditioner along y and x.
        ny, nx: nodes.
        cell: s², px.
        damping: relative to the mean of T.
        programs: programs per pair.
        block: nodes per program.
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


@triton.jit(do_not_specialize=NODE_COUNTS)
def precondition(modes, spectrum, scales, product, ny, nx, block: tl.constexpr):
    """Divide the cosine modes of a residual by the preconditioner; sum residual · result for each program.

    Args:
        modes: `(n, 2, ny, nx)`, overwritten.
        spectrum: `(ny, nx)`.
        scales: `(n, 4)`.
        product: `(n, programs)`, written.
        ny, nx: nodes.
        block: nodes per program.
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


@triton.jit(do_not_specialize=NODE_COUNTS)
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
    """Compute the next direction of conjugate gradients, and apply the system to it.

    Args:
        equations: `(n, 5, ny, nx)`.
        scales: `(n, 4)`.
        scaled: the preconditioned residual `(n, 2, ny, nx)`.
        previous: the last direction.
        direction: written.
        applied: written.
        product: `(n, programs)`: residual · scaled.
        product_before: `product` of the iteration before.
        energy: `(n, programs)`, written: direction · applied.
        ny, nx: nodes.
        programs: programs per pair.
        first: whether there is no last direction.
        block: nodes per program.
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


@triton.jit(do_not_specialize=NODE_COUNTS)
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
    """Take one step along a direction; at the last one move u by the sum of all steps, by at most `largest` px.

    Args:
        step: δ so far `(n, 2, ny, nx)`, updated.
        left: residual, updated.
        direction: direction of this step.
        applied: the system applied to it.
        product: `(n, programs)`: residual · scaled.
        energy: `(n, programs)`: direction · applied.
        u: `(n, 2, ny, nx)`, updated at the last step.
        ny, nx: nodes.
        programs: programs per pair.
        largest: px of the level.
        first: whether δ is 0 so far.
        last: whether this ends the iteration.
        block: nodes per program.
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
