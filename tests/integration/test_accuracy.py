"""The main job: what was deformed by a known amount comes back, on synthetic and on real sections, with defaults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

import ssem_dask
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.protocol import evaluate
from ssem_dask.evaluation.simulate import simulate, simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.volumes.importing import import_volume


def imported(values: np.ndarray, path: Path, *, pixel_size: float, thickness: float, labels: bool = False) -> str:
    tifffile.imwrite(path.with_suffix(".tif"), values)
    import_volume(
        str(path.with_suffix(".tif")), str(path), pixel_size=pixel_size, section_thickness=thickness, labels=labels
    )
    return str(path)


def aligned(source: str, output: Path, **config: Any) -> str:
    assert ssem_dask.align(source, str(output), cluster="serial", **config).state == "complete"
    return str(output)


def test_phantom_without_oblique_motion(tmp_path: Path) -> None:
    observed = str(tmp_path / "observed.zarr")
    simulate_phantom(
        PhantomConfig(seed=7, shape=(20, 384, 384), oblique=0.0),
        observed,
        seed=7,
        deformation=DeformationConfig(),
        damage=DamageConfig(),
    )
    result = evaluate(aligned(observed, tmp_path / "out.zarr"), truth=observed)
    assert result.value("coarse", "jitter_median") < result.value("observed", "jitter_median") / 2
    assert result.value("aligned", "jitter_median") < result.value("coarse", "jitter_median") / 2.5
    assert result.value("aligned", "jitter_p95") < result.value("coarse", "jitter_p95") / 2
    assert result.value("aligned", "fold_rate") < 0.001


def test_chained_fibsem_sections_recover_what_was_done_to_them(
    tmp_path: Path, real_sections: Callable[[str], Path]
) -> None:
    chained = {"compose": {"method": "chain"}, "coarse": {"sections": "match"}}
    planes = tifffile.imread(real_sections("flyem_fibsem/images.tif"))[:32:4]
    still = imported(planes, tmp_path / "still.zarr", pixel_size=10.0, thickness=40.0)
    warped = str(tmp_path / "warped.zarr")
    simulate(still, warped, seed=4, deformation=DeformationConfig(), damage=DamageConfig())
    result = evaluate(
        aligned(warped, tmp_path / "warped_out.zarr", **chained),
        truth=warped,
        undeformed_run=aligned(still, tmp_path / "still_out.zarr", **chained),
    )
    assert result.value("aligned", "recovery_median") < result.value("coarse", "recovery_median") / 3
    assert result.value("aligned", "jitter_median") < result.value("coarse", "jitter_median")


def test_separation_leaves_undeformed_sections_alone_and_undoes_deformation(
    tmp_path: Path, real_sections: Callable[[str], Path]
) -> None:
    planes = tifffile.imread(real_sections("flyem_fibsem/images.tif"))[:64:4]
    still = imported(planes, tmp_path / "still.zarr", pixel_size=10.0, thickness=40.0)
    warped = str(tmp_path / "warped.zarr")
    simulate(still, warped, seed=4, deformation=DeformationConfig(), damage=DamageConfig())
    result = evaluate(
        aligned(warped, tmp_path / "warped_out.zarr"),
        truth=warped,
        undeformed_run=aligned(still, tmp_path / "still_out.zarr"),
    )
    # Half of what is aimed at with pixels of 5 nm.
    assert result.value("aligned", "injected_jitter_median") < 0.35
    assert result.value("aligned", "injected_drift_max") < 0.75
    assert result.value("aligned", "jitter_median") < result.value("observed", "jitter_median") / 4


def test_vnc_sections_look_and_overlap_better_than_rigid(tmp_path: Path, real_sections: Callable[[str], Path]) -> None:
    crop = (slice(6, 12), slice(200, 648), slice(200, 648))
    images, classes = (tifffile.imread(real_sections(f"vnc_sstem/{name}.tif"))[crop] for name in ("images", "classes"))
    source = imported(images, tmp_path / "vnc.zarr", pixel_size=4.6, thickness=50.0)
    labels = imported(classes, tmp_path / "classes.zarr", pixel_size=4.6, thickness=50.0, labels=True)
    warped = str(tmp_path / "warped.zarr")
    simulate(source, warped, seed=2, deformation=DeformationConfig(), damage=DamageConfig(), labels=labels)
    result = evaluate(aligned(warped, tmp_path / "out.zarr"), truth=warped)
    for metric in ("ncc", "dice_mean", "dice_weighted"):
        assert result.value("aligned", metric) > result.value("coarse", metric) > result.value("observed", metric)
