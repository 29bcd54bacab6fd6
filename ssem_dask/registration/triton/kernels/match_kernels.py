"""Kernel of the maps whose averages give the confidence of a field."""

import triton
import triton.language as tl


@triton.jit
def match_maps(features, pairs, warped, seen, moments, maps, cutoff, h, w, channels: tl.constexpr, block: tl.constexpr):
    """Compute the maps that `confidence.average_match_maps` takes.

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
        block: px per program.
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
