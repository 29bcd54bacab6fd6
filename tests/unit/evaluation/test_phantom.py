"""The phantom: laws of generation, natural motion against labels, and likeness to real sections."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ssem_dask.errors import ConfigError
from ssem_dask.evaluation.phantom import PhantomChunk, PhantomConfig, generate, natural_motion
from ssem_dask.field.folding import fold_rate
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import warp
from ssem_dask.geometry.box import Box
from ssem_dask.types import AnyArray, Float64Array

pytestmark = pytest.mark.slow

SHAPE = (3, 400, 530)
LIKE_VNC = PhantomConfig(shape=(5, 768, 768), pixel_size=4.6, section_thickness=47.0)


def whole(config: PhantomConfig) -> PhantomChunk:
    return generate(config, Box((0, 0, 0), config.shape))


@pytest.fixture(scope="module")
def chunk() -> PhantomChunk:
    return whole(PhantomConfig(seed=5, shape=SHAPE))


@pytest.fixture(scope="module")
def like_vnc() -> PhantomChunk:
    return whole(LIKE_VNC)


@pytest.fixture(scope="module")
def vnc(real_sections: Callable[[str], Path]) -> AnyArray:
    path = real_sections("vnc_sstem/images.tif")
    return np.asarray(tifffile.imread(path, key=range(5)))[:, :768, :768]


def ncc(a: AnyArray, b: AnyArray) -> float:
    return float(np.corrcoef(a.astype(np.float64).ravel(), b.astype(np.float64).ravel())[0, 1])


def adjacent_ncc(sections: AnyArray, *, step: int = 1) -> float:
    return float(np.mean([ncc(sections[z], sections[z + step]) for z in range(len(sections) - step)]))


def spectrum(sections: AnyArray) -> tuple[Float64Array, Float64Array]:
    """Radial power spectrum of the standardised sections in log bands: cycles per px, power."""
    n = sections.shape[-1]
    window = np.hanning(n)[:, None] * np.hanning(n)
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n))
    edges = np.geomspace(0.008, 0.42, 11)
    band = np.digitize(frequency.ravel(), edges)
    power = np.zeros(n * n)
    for image in sections.astype(np.float64):
        power += np.abs(np.fft.fft2((image - image.mean()) / image.std() * window)).ravel() ** 2
    return np.sqrt(edges[1:] * edges[:-1]), np.array([power[band == k].mean() for k in range(1, len(edges))])


def test_the_seed_decides_everything(chunk: PhantomChunk) -> None:
    again = whole(PhantomConfig(seed=5, shape=SHAPE))
    other = whole(PhantomConfig(seed=6, shape=SHAPE))
    np.testing.assert_array_equal(again.image, chunk.image)
    np.testing.assert_array_equal(again.labels, chunk.labels)
    assert abs(ncc(other.image, chunk.image)) < 0.1
    assert (other.labels == chunk.labels).mean() < 0.5


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    ranges = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in SHAPE]
    return Box((ranges[0][0], ranges[1][0], ranges[2][0]), (ranges[0][1], ranges[1][1], ranges[2][1]))


@settings(max_examples=15, deadline=None)
@given(box=boxes(), extra=st.tuples(st.integers(0, 9), st.integers(0, 999), st.integers(0, 999)))
def test_any_box_equals_the_same_box_cut_from_a_larger_one(
    chunk: PhantomChunk, box: Box, extra: tuple[int, int, int]
) -> None:
    shape = (SHAPE[0] + extra[0], SHAPE[1] + extra[1], SHAPE[2] + extra[2])
    part = generate(PhantomConfig(seed=5, shape=shape), box)
    assert part.image.dtype == np.uint8
    assert part.labels.dtype == np.uint32
    np.testing.assert_array_equal(part.image, chunk.image[box.slices])
    np.testing.assert_array_equal(part.labels, chunk.labels[box.slices])


def test_tiles_leave_no_seam() -> None:
    config = PhantomConfig(shape=(4, 512, 512), noise=0.0)
    image = whole(config).image.astype(np.int64)
    steps = np.abs(np.diff(image, axis=2)).mean(axis=(0, 1))
    # The step across the border of two tiles (columns 255 and 256) is one like any other.
    assert steps[255] < steps.mean() + 4 * steps.std()


def test_a_corner_of_a_huge_volume_needs_little_memory() -> None:
    config = PhantomConfig(shape=(20_000, 150_000, 150_000))
    box = Box((19_999, 149_800, 149_700), config.shape)
    tracemalloc.start()
    part = generate(config, box)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6  # bytes
    assert part.image.std() > 30  # grey levels: still tissue, not rounding


def test_labels_fill_the_volume_and_persist(chunk: PhantomChunk) -> None:
    assert (chunk.labels > 0).all()
    straight = whole(PhantomConfig(shape=(3, 512, 512), oblique=0.0))
    kept = (straight.labels[1:] == straight.labels[:-1]).mean()
    assert 0.75 < kept < 0.99


def test_membranes_are_dark_and_follow_the_labels(chunk: PhantomChunk) -> None:
    z, y, x = np.nonzero(chunk.labels[:, :, 1:] != chunk.labels[:, :, :-1])
    assert np.median(chunk.image[z, y, x]) < 0.6 * np.median(chunk.image)


def test_neurites_branch() -> None:
    labels = whole(PhantomConfig(shape=(30, 256, 256), oblique=0.0)).labels[::2]
    branching = 0
    for label in np.unique(labels):
        body = labels == label
        profiles = [ndimage.label(section)[1] for section in body]
        # Two profiles in one section that are one neurite in the volume.
        branching += max(profiles) >= 2 and ndimage.label(body)[1] < max(profiles)
    assert branching >= 2


def test_motion_maps_each_section_onto_the_reference() -> None:
    config = PhantomConfig(shape=(7, 512, 512), oblique=25.0, shape_change=0.0)
    labels = whole(config).labels
    reference = torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.float32))
    for z in (1, 3, 6):
        motion = natural_motion(config, z, Grid((512, 512), 1.0))
        assert motion.dtype == torch.float32
        moved, inside = warp(reference[:1], field=motion, spacing=1.0, kind="nearest")
        plain = float((reference[0] == reference[z])[inside].float().mean())
        agreement = float((moved[0] == reference[z])[inside].float().mean())
        assert agreement > 0.96
        assert plain < agreement - 0.03


def test_without_oblique_motion_nothing_moves() -> None:
    config = PhantomConfig(shape=(9, 512, 512), oblique=0.0)
    assert not natural_motion(config, 8, Grid((64, 64), 8.0)).any()
    assert not natural_motion(PhantomConfig(), 0, Grid((64, 64), 8.0)).any()
    labels = whole(config).labels[::4]

    def overlap(dy: int, dx: int) -> float:
        inner = labels[0, 8:-8, 8:-8]
        return float((labels[1, 8 + dy : 504 + dy, 8 + dx : 504 + dx] == inner).mean())

    scores = {(dy, dx): overlap(dy, dx) for dy in (-8, 0, 8) for dx in (-8, 0, 8)}
    assert max(scores, key=lambda shift: scores[shift]) == (0, 0)


@pytest.mark.parametrize("oblique", [5.0, 20.0])
def test_motion_has_the_size_and_the_memory_it_is_set_to(oblique: float) -> None:
    config = PhantomConfig(oblique=oblique, pixel_size=4.0)
    grid = Grid((40, 40), 600.0)
    field = torch.stack([natural_motion(config, z, grid) for z in range(60)]).double()
    steps = field.diff(dim=0) * config.pixel_size
    assert float(steps.square().sum(dim=1).mean().sqrt()) == pytest.approx(oblique, rel=0.1)
    memory = [float((steps[lag:] * steps[:-lag]).mean() / steps.square().mean()) for lag in (1, 5, 20)]
    assert 0.66 < memory[0] < 0.96
    assert 0.2 < memory[1] < 0.8
    assert abs(memory[2]) < 0.35


@pytest.mark.parametrize("z", [1, 50, 3000])
def test_motion_never_folds_the_tissue(z: int) -> None:
    config = PhantomConfig(oblique=30.0)
    assert fold_rate(natural_motion(config, z, Grid((700, 700), 16.0)), spacing=16.0) == 0.0


def test_motion_is_the_same_on_any_grid() -> None:
    config = PhantomConfig()
    fine = natural_motion(config, 9, Grid((90, 90), 1.0))
    coarse = natural_motion(config, 9, Grid((30, 30), 3.0))
    torch.testing.assert_close(fine[:, 1::3, 1::3], coarse, atol=1e-3, rtol=0)


def test_pixel_size_samples_the_same_tissue() -> None:
    fine = whole(PhantomConfig(shape=(1, 512, 512), pixel_size=4.0)).labels[0]
    coarse = whole(PhantomConfig(shape=(1, 256, 256), pixel_size=8.0)).labels[0]
    assert (fine[::2, ::2] == coarse).mean() > 0.93


def test_adjacent_sections_correlate_as_real_ones_do(like_vnc: PhantomChunk, vnc: AnyArray) -> None:
    assert adjacent_ncc(like_vnc.image) == pytest.approx(adjacent_ncc(vnc), abs=0.15)
    assert adjacent_ncc(like_vnc.image, step=3) == pytest.approx(adjacent_ncc(vnc, step=3), abs=0.12)


def test_spectrum_is_like_that_of_real_sections(like_vnc: PhantomChunk, vnc: AnyArray) -> None:
    frequency, real = spectrum(vnc)
    _, ours = spectrum(like_vnc.image)
    slopes = [np.polyfit(np.log(frequency), np.log(power), 1)[0] for power in (real, ours)]
    assert slopes[1] == pytest.approx(slopes[0], abs=0.3)
    assert np.abs(np.log2(ours / real)).max() < 1.0  # within a factor of 2 in every band from 11 to 575 nm


def test_grey_values_are_like_those_of_real_sections(like_vnc: PhantomChunk, vnc: AnyArray) -> None:
    levels = [5, 25, 50, 75, 95]
    ours, real = (np.percentile(v, levels) for v in (like_vnc.image, vnc))
    assert np.abs(ours - real).max() < 30


def test_a_box_outside_the_volume_is_refused() -> None:
    config = PhantomConfig(shape=(2, 64, 64))
    with pytest.raises(ConfigError, match=r"is not inside the volume \(2, 64, 64\)"):
        generate(config, Box((0, 0, 0), (3, 64, 64)))
    with pytest.raises(ConfigError, match="mip 1"):
        generate(config, Box((0, 0, 0), (1, 32, 32), mip=1))
