"""How little jitter a linear estimate could leave at best, were the statistics of tissue and distortion known.

    ssem-dask align UNDEFORMED.zarr STILL.zarr
    python -m benchmarks.limit STILL.zarr DEFORMED.zarr

DEFORMED.zarr is a simulated volume with its truth, STILL.zarr the run on the same sections before they were deformed:
its pair fields k = 1 are the tissue's own motion m_z. Between deformed neighbours it is Δd_z + m_z, d_z the distortion.
In cosines on the nodes, and along z in frequencies ω, the best linear estimate of Δd is the Wiener filter A / (A + S),
A = |1 - e^iω|² D² and S the spectra of Δd and of m. Here they are those of these very sections, pooled over rings of
cosines, S by multitaper; no aligner knows them. What the filter leaves of Δd, and what it takes of m, is the jump of
the error between neighbours. Pairs of k = 2 and 3 are left out: they contain no more about distortion, but a little
about the noise of k = 1, which counts as motion here.
"""

import argparse
import sys
from itertools import pairwise

import numpy as np
import torch
from scipy.fft import dctn, idctn
from scipy.signal.windows import dpss

from ssem_dask.composition.smooth import fill_unknown
from ssem_dask.evaluation.metrics.alignment_error import SPACING, margin_of
from ssem_dask.evaluation.truth import Truth
from ssem_dask.field.affine import apply_affine, invert_affine
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.storage.fields import open_coarse, open_field
from ssem_dask.storage.location import join
from ssem_dask.types import Float64Array

_RINGS = (0.0, 0.1, 1.01, 1.5, 2.3, 3.3, 4.5, 6.5, 1e9)
"""Length of the pair of cosine numbers: the mean, the slopes, and so on."""
_TAPERS = 7


def main() -> None:
    """Print what is left in each ring, and of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("still", help="run on the undeformed sections")
    parser.add_argument("deformed", help="simulated volume with the truth of the deformation")
    options = parser.parse_args()
    motion, grid = _motion(options.still)
    truth = Truth.open(options.deformed)
    error = remaining_error(motion, _distortion(truth, grid))
    margin = margin_of(truth.shape[1:])
    y, x = (
        (places >= margin) & (places <= side - margin)
        for places, side in zip(grid.positions().double().numpy(), truth.shape[1:], strict=True)
    )
    jumps = np.square(error[:, :, y & x]).sum(axis=1)
    sys.stdout.write(
        f"within the margin: J {np.sqrt(jumps.mean() / 2):.2f} px, median jitter {np.median(jumps) ** 0.5:.2f} px\n"
    )


def _motion(run: str) -> tuple[Float64Array, Grid]:
    """m_z `(Z - 1, 2, y, x)`, px, between the sections as they were, and the nodes."""
    pairs, info = open_field(join(run, "fields", "pairs"))
    coarse = np.asarray(open_coarse(join(run, "fields", "coarse"))[:])
    grid = Grid.of_section(info.shape_mip0[1:], spacing=info.spacing)
    filled = fill_unknown(torch.from_numpy(np.asarray(pairs[0, 1:])))
    places, found = grid.positions(), []
    for u, before, own in zip(filled, coarse[:-1], coarse[1:], strict=True):
        aligned = apply_affine(invert_affine(own), places)
        moved = aligned + sample(u, grid=grid, positions=aligned, kind="bilinear")
        found.append(apply_affine(before, moved) - places)
    return torch.stack(found).double().numpy(), grid


def _distortion(truth: Truth, grid: Grid) -> Float64Array:
    """d_z `(Z, 2, y, x)` on the nodes, as displacements aligned → observed, to first order."""
    own = Grid.of_section(truth.shape[1:], spacing=SPACING)
    fields = (torch.from_numpy(np.asarray(truth.fields[z], dtype=np.float32)) for z in range(truth.shape[0]))
    sampled = [sample(field, grid=own, positions=grid.positions(), kind="bilinear") for field in fields]
    return -torch.stack(sampled).double().numpy()


def remaining_error(motion: Float64Array, distortion: Float64Array) -> Float64Array:
    """Jumps of the error between neighbours `(Z - 1, 2, y, x)`, px."""
    between = np.diff(distortion, axis=0)
    course, waves, own = (dctn(v, axes=(2, 3), norm="ortho") for v in (motion, between, distortion))
    course -= course.mean(axis=0)  # a mean tilt is known
    length = np.hypot(*np.indices(motion.shape[2:]))
    factor = 2.0 - 2.0 * np.cos(2 * np.pi * np.fft.fftfreq(len(motion)))
    tapers = dpss(len(motion), (_TAPERS + 1) / 2, _TAPERS)
    error = np.zeros_like(waves)
    for low, high in pairwise(_RINGS):
        ring = (length >= low) & (length < high)
        if not ring.any():
            continue
        columns, size = course[:, :, ring].reshape(len(course), -1), ring.sum() / ring.size
        spectrum = np.mean(
            [np.square(np.abs(np.fft.fft(t[:, None] * columns, axis=0))).mean(axis=1) for t in tapers], axis=0
        )
        variance = float((own[:, :, ring] - own[:, :, ring].mean(axis=0)).var())
        share = (factor * variance / np.maximum(factor * variance + spectrum, 1e-30))[:, None, None]
        kept, taken = (np.fft.fft(v[:, :, ring], axis=0) for v in (waves, course))
        error[:, :, ring] = np.fft.ifft((1 - share) * kept - share * taken, axis=0).real
        were, moved, left = (np.sqrt(v * size) for v in (variance, columns.var(), np.square(error[:, :, ring]).mean()))
        name = f"cosines {low:g} to {high:g}"
        sys.stdout.write(f"{name}: distortion {were:.2f} px rms, motion {moved:.2f}, left {left:.2f}\n")
    return np.asarray(idctn(error, axes=(2, 3), norm="ortho"))


if __name__ == "__main__":
    main()
