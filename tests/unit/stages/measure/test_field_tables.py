"""Measuring fields: what is found does not depend on how many windows are read at once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import plan
from ssem_dask.field.affine import rotation_about
from ssem_dask.field.folding import fold_rate, strain
from ssem_dask.stages.array_rows.coarse_arrays import COARSE
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.job import Job
from ssem_dask.stages.measure import field_tables as measuring
from ssem_dask.stages.measure.quality_frame import quality_info
from ssem_dask.storage.fields import FieldInfo, create_coarse, create_field
from ssem_dask.storage.quality import QualityInfo
from ssem_dask.storage.run_group import create_run
from ssem_dask.storage.volume import VolumeInfo, create_volume
from tests.support.strategies import smooth_noise

SECTIONS, NODES, SPACING = 5, (72, 80), 16
WINDOW = 20 * SPACING, 24 * SPACING
SHAPE = SECTIONS, NODES[0] * SPACING, NODES[1] * SPACING
MEASURED = range(1, SECTIONS)


def fields() -> torch.Tensor:
    """Section fields `(z, 2, y, x)`, with folds, and a hole in one."""
    found = torch.stack([20 * smooth_noise(2, NODES, seed=z, cycles=3) for z in range(SECTIONS)])
    found[2, :, 15:25, 30:60] = torch.nan
    return found


def pairs() -> torch.Tensor:
    """Pair fields `(1, z, 2, y, x)`, one unknown, with a hole in another."""
    found = torch.stack([5 * smooth_noise(2, NODES, seed=10 + z, cycles=3) for z in range(SECTIONS)])[None]
    found[0, 3] = torch.nan
    found[0, 4, :, :30, 20:40] = torch.nan
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, QualityInfo]:
    """A run whose fields are known, and how it is cut into windows."""
    folder: Path = tmp_path_factory.mktemp("measured")
    source, output = str(folder / "source.zarr"), str(folder / "out.zarr")
    volume = VolumeInfo(shape=SHAPE, dtype=np.dtype("uint8"), pixel_size=5.0, section_thickness=40.0)
    create_volume(source, info=volume, chunk=(1, 512, 512), shard=(1, 2048, 2048), mips=1)
    tree = {"source": source, "output": output, "register": {"spacing": SPACING}, "coarse": {"parts": False}}
    job = plan(make_config(tree, where="test")).job
    create_run(output, attributes={})
    info = FieldInfo(spacing=SPACING, shape_mip0=SHAPE)
    confidence = smooth_noise(SECTIONS, NODES, seed=20, cycles=2).abs()
    values = {"section": fields(), "pairs": pairs(), "confidence": confidence[None], "uncertainty": confidence}
    for name, value in values.items():
        array = create_field(
            job.url("fields", name),
            info=info,
            leading=(1,) if name in ("pairs", "confidence") else (),
            components=name in ("section", "pairs"),
            chunks=(*[1] * (value.ndim - 2), *NODES),
            shards=None,
        )
        array[:] = value.numpy()
    turns = [rotation_about(degrees=2.0 * z, centre=(500.0, 600.0), shift=(3.0 * z, 0.0)) for z in range(SECTIONS)]
    create_coarse(job.url("fields", "coarse"), shape_mip0=SHAPE)[:] = np.array(turns)
    return job, QualityInfo(shape_mip0=SHAPE, window=WINDOW, probe=quality_info(job).probe, similarity_mip=0)


def test_a_mirrored_section_has_no_folds_but_its_own(run: tuple[Job, QualityInfo]) -> None:
    job, info = run
    section, coarse = SECTION.open(job, mode="r+"), COARSE.open(job, mode="r+")
    kept, kept_affine = np.asarray(section[3]), np.asarray(coarse[3])
    folded = kept.copy()
    folded[0, 30:40] += 5 * SPACING
    y = SPACING * (np.arange(NODES[0]) + 0.5)[:, None]
    try:
        section[3] = folded
        before = measuring.measure_fields(job, info, MEASURED).sections
        # The section was mounted upside down: the field leads to y mirrored about the middle of the section.
        mirrored = folded.copy()
        mirrored[0] = SHAPE[1] - 2 * y - folded[0]
        section[3] = mirrored
        coarse[3] = np.diag([-1.0, 1.0]) @ kept_affine + np.array([[0, 0, SHAPE[1]], [0, 0, 0]])
        after = measuring.measure_fields(job, info, MEASURED).sections
    finally:
        section[3], coarse[3] = kept, kept_affine
    assert 0 < before["fold_rate"][2] < 0.5
    for name in ("fold_rate", "strain_p99"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4)


@pytest.mark.parametrize("kept", [1 << 18, 600])
def test_results_do_not_depend_on_how_many_windows_are_read_at_once(
    run: tuple[Job, QualityInfo], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "KEPT", kept)
    found = []
    for room in (1, 2 * 20 * 24, 9 * 20 * 24, 1 << 16):
        monkeypatch.setattr(measuring, "_PATCH_NODES", room)
        found.append(measuring.measure_fields(*run, MEASURED))
    for other in found[1:]:
        for expected, got in ((found[0].sections, other.sections), (found[0].windows, other.windows)):
            for name, values in expected.items():
                np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-3, err_msg=name)


def test_all_nodes_are_measured_once(run: tuple[Job, QualityInfo]) -> None:
    found = measuring.measure_fields(*run, MEASURED)
    for i, z in enumerate(MEASURED):
        strains = strain(fields()[z], spacing=SPACING)
        assert found.sections["fold_rate"][i] == fold_rate(fields()[z], spacing=SPACING)
        assert found.sections["strain_p99"][i] == pytest.approx(np.nanquantile(strains.double().numpy(), 0.99))
        known = torch.isfinite(pairs()[0, z, 0])
        assert found.sections["known"][i] == pytest.approx(float(known.double().mean()))
        assert found.windows["known"][i, 0, 1] == pytest.approx(float(known[:20, 24:48].double().mean()))
    assert np.isnan(found.windows["motion"][2]).all()
    assert np.isfinite(found.windows["motion"][0, 3, 3])
