"""Kernels of the local contrast of images."""

import triton
import triton.language as tl


@triton.jit
def block_moments(images, valid, moments, h, w, rows, columns, side: tl.constexpr, blocks: tl.constexpr):
    """Compute moments of every block of `side` px: number of valid px, their mean, the sum of squares about it.

    Args:
        images: `(n, h, w)` float32.
        valid: `(n, h, w)` bool.
        moments: `(3, n, rows, columns)`, written.
        h, w: px.
        rows, columns: blocks.
        side: px along a block, a power of two.
        blocks: blocks per program, along x.
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
    """Normalise every px by local mean and deviation, interpolated bilinearly between the blocks.

    Args:
        images: `(n, h, w)` float32.
        valid: `(n, h, w)` bool.
        mean: `(n, rows, columns)`, of the centred and scaled image.
        deviation: `(n, rows, columns)`, of the centred and scaled image.
        centre: `(n,)`, subtracted from the image.
        spread: `(n,)`, divides the centred image.
        out: `(n, h, w)` float32, written.
        h, w: px.
        rows, columns: blocks.
        side: px along a block.
        clip: largest contrast.
        block: px per program.
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
