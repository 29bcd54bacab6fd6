"""Defaults fit any pixel size, bit depth, polarity and shape: one and the same call aligns all of these."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import ssem_dask
from ssem_dask.driver.run_status import Summary
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig, generate
from ssem_dask.evaluation.protocol import evaluate
from ssem_dask.evaluation.simulate import simulate
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.geometry.box import Box
from ssem_dask.storage.evaluation_file import Evaluation
from ssem_dask.storage.location import join, read_bytes
from ssem_dask.volumes.importing import import_volume

Images = np.ndarray[Any, np.dtype[Any]]

METHOD: dict[str, Any] = {
    "register": {"method": "gauss_newton"},
    # The coarse stage has tests of its own; here it should not take time.
    "coarse": {"neighbours": 1, "thumbnail": 128},
}
RMS, SPACING = 24.0, 800.0  # nm, of the distortion


def tissue(shape: tuple[int, int, int], *, pixel: float, seed: int = 9) -> Images:
    """A phantom seen with pixels of 4 to 32 nm."""
    factor = max(1, round(pixel / 8))
    z, y, x = shape
    config = PhantomConfig(seed=seed, shape=(z, y * factor, x * factor), pixel_size=pixel / factor, oblique=0.0)
    fine = generate(config, Box((0, 0, 0), config.shape)).image.astype(np.float32)
    pooled = fine.reshape(z, y, factor, x, factor).mean(axis=(2, 4))
    return np.clip(pooled.round(), 0, 255).astype(np.uint8)


def deformed(images: Images, folder: Path, *, pixel: float, shift: float = 40.0) -> str:
    """A simulated volume with its truth; the deformation has the same lengths in nm at every pixel size."""
    folder.mkdir()
    tifffile.imwrite(folder / "still.tif", images, photometric="minisblack")
    import_volume(str(folder / "still.tif"), str(folder / "still.zarr"), pixel_size=pixel, section_thickness=40.0)
    spacing = SPACING / pixel
    deformation = DeformationConfig(
        rotation=1.0, shift=shift / pixel, scale=0.0, elastic=RMS / pixel, elastic_spacing=(spacing, spacing)
    )
    simulate(
        str(folder / "still.zarr"), str(folder / "seen.zarr"), seed=2, deformation=deformation, damage=DamageConfig()
    )
    return str(folder / "seen.zarr")


def aligned(seen: str) -> tuple[str, Summary]:
    output = str(Path(seen).parent / "out.zarr")
    summary = ssem_dask.align(seen, output, cluster="serial", **METHOD)
    assert summary.state == "complete"
    return output, summary


def measured(seen: str) -> Evaluation:
    return evaluate(aligned(seen)[0], truth=seen)


@pytest.mark.parametrize(
    ("pixel", "side", "nanometres"), [(4.0, 384, 16.0), (8.0, 256, 16.0), (16.0, 256, 22.0), (32.0, 256, 40.0)]
)
def test_pixel_sizes(pixel: float, side: int, nanometres: float, tmp_path: Path) -> None:
    seen = deformed(tissue((8, side, side), pixel=pixel), tmp_path / "v", pixel=pixel)
    output, summary = aligned(seen)
    assert f"working pixel {pixel:g} nm" in summary.choices[0]
    result = evaluate(output, truth=seen)
    jitter = {name: result.value(name, "jitter_median") for name in ("observed", "coarse", "aligned")}
    assert jitter["aligned"] < 0.85 * jitter["coarse"] < 0.85 * jitter["observed"]
    assert jitter["aligned"] * pixel < nanometres
    assert result.value("aligned", "fold_rate") < 0.001
    calibration = json.loads(read_bytes(join(output, "quality", "calibration.json")))
    assert calibration["chosen_by"] == "data"
    assert any(calibration["reason"] == report.message for report in summary.remarks)


def test_fine_pixels_are_registered_at_a_coarser_scale(tmp_path: Path) -> None:
    images = tissue((3, 128, 128), pixel=5.0).repeat(2, axis=1).repeat(2, axis=2)  # as if seen with 2.5 nm
    seen = deformed(images, tmp_path / "v", pixel=2.5, shift=20.0)
    output, summary = aligned(seen)
    assert "register.mip = 1: working pixel 5 nm" in summary.choices[0]
    assert any("smoothness" in choice for choice in summary.choices)
    result = evaluate(output, truth=seen)
    assert result.value("aligned", "jitter_median") < result.value("observed", "jitter_median") / 2


@pytest.fixture(scope="module")
def eight_bit() -> Images:
    return tissue((4, 256, 256), pixel=8.0)


@pytest.fixture(scope="module")
def eight_bit_run(eight_bit: Images, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    seen = deformed(eight_bit, tmp_path_factory.mktemp("eight") / "v", pixel=8.0)
    return seen, aligned(seen)[0]


@pytest.mark.parametrize(
    ("change", "median", "p95"),
    [(lambda v: v.astype(np.uint16) * 200, 0.02, 0.1), (lambda v: 255 - v, 1.0, 3.5)],
    ids=["16 bit", "inverted"],
)
def test_other_grey_values_give_the_same_field(
    change: Any, median: float, p95: float, eight_bit: Images, eight_bit_run: tuple[str, str], tmp_path: Path
) -> None:
    """In px, after shifts of 5 px and 4 px rms of distortion; learned features are not quite blind to polarity."""
    seen = deformed(change(eight_bit), tmp_path / "v", pixel=8.0)
    output, _ = aligned(seen)
    one, other = (ssem_dask.open_alignment(run).fields() for run in (eight_bit_run[1], output))
    apart = np.linalg.norm(one - other, axis=1)
    assert np.nanmedian(apart) < median
    assert np.nanquantile(apart, 0.95) < p95
    results = [evaluate(eight_bit_run[1], truth=eight_bit_run[0]), evaluate(output, truth=seen)]
    plain, changed = (result.value("aligned", "jitter_median") for result in results)
    assert changed < 1.3 * plain < 0.8 * results[0].value("coarse", "jitter_median")


@pytest.mark.parametrize("shape", [(2, 256, 256), (3, 200, 256)], ids=str)
def test_few_and_oblong_sections(shape: tuple[int, int, int], tmp_path: Path) -> None:
    seen = deformed(tissue(shape, pixel=8.0), tmp_path / "v", pixel=8.0)
    output, summary = aligned(seen)
    result = evaluate(output, truth=seen)
    assert result.value("aligned", "jitter_median") < 0.8 * result.value("coarse", "jitter_median")
    assert any("the default" in report.message for report in summary.remarks)
    assert json.loads(read_bytes(join(output, "quality", "calibration.json")))["chosen_by"] == "default"


def test_a_strip_of_16384_px(tmp_path: Path) -> None:
    """Sections that are only shifted are aligned from one end to the other."""
    piece = tissue((3, 144, 528), pixel=8.0)
    wide = np.concatenate([piece, piece[:, :, ::-1], piece[:, ::-1], piece[:, ::-1, ::-1]] * 8, axis=2)
    shifts = ((8, 8), (3, 14), (12, 2))
    strip = np.stack([s[y : y + 128, x : x + 16384] for s, (y, x) in zip(wide, shifts, strict=True)])
    tifffile.imwrite(tmp_path / "strip.tif", strip, photometric="minisblack")
    import_volume(str(tmp_path / "strip.tif"), str(tmp_path / "strip.zarr"), pixel_size=8.0, section_thickness=40.0)
    summary = ssem_dask.align(str(tmp_path / "strip.zarr"), str(tmp_path / "out.zarr"), cluster="serial", **METHOD)
    assert summary.state == "complete"
    fields = ssem_dask.open_alignment(str(tmp_path / "out.zarr")).fields()
    for z in (1, 2):
        wanted = np.subtract(shifts[z - 1], shifts[z])
        missed = np.linalg.norm((fields[z] - fields[z - 1]) - wanted[:, None, None], axis=0)[2:-2]
        for part in np.array_split(missed, 16, axis=1):
            assert np.nanmedian(part) < 2.0
