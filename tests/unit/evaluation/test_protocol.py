"""The protocol on runs whose fields are known: exact, untouched, and in between."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift
from torch import Tensor

from ssem_dask.errors import OutputError, SourceError
from ssem_dask.evaluation.deformation import DeformationConfig, draw_deformation
from ssem_dask.evaluation.metric_table import METRICS
from ssem_dask.evaluation.protocol import evaluate
from ssem_dask.evaluation.simulate import simulate
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.evaluation.truth import Truth
from ssem_dask.field.affine import IDENTITY, invert_affine
from ssem_dask.field.compose import compose
from ssem_dask.field.grid import Grid
from ssem_dask.field.inverse import inverse
from ssem_dask.geometry.box import Box
from ssem_dask.storage.evaluation_file import Evaluation
from ssem_dask.storage.fields import FieldInfo, create_coarse, create_field
from ssem_dask.storage.location import join
from ssem_dask.storage.run_group import create_run
from ssem_dask.storage.volume import VolumeInfo, create_volume
from ssem_dask.types import AnyArray

pytestmark = pytest.mark.slow

SHAPE = (6, 256, 288)
SEED = 11
DEFORMATION = DeformationConfig(shift=8.0, elastic_spacing=(96.0, 128.0))
SPACING = 4
GRID = Grid.of_section(SHAPE[1:], spacing=SPACING)


def stored(url: Path, values: AnyArray) -> str:
    info = VolumeInfo(shape=values.shape, dtype=values.dtype, pixel_size=5.0, section_thickness=40.0)
    volume = create_volume(str(url), info=info, chunk=(1, 256, 256), shard=(1, 512, 512), mips=1)
    for z in range(values.shape[0]):
        volume.write(Box((z, 0, 0), (z + 1, *values.shape[1:])), values[z : z + 1])
    return str(url)


def tissue() -> tuple[AnyArray, AnyArray]:
    """Blobs and their labels that run obliquely by 2 px a section, with a little noise of each section."""
    generator = np.random.default_rng(1)
    blobs = gaussian_filter(generator.standard_normal((SHAPE[1] + 40, SHAPE[2] + 40)), 6)
    rows, columns = np.indices(blobs.shape)
    cells = (1 + rows // 32 * 100 + columns // 32).astype(np.uint32)
    images, labels = [], []
    for z in range(SHAPE[0]):
        moved = shift(blobs, (2.0 * z, 0.0), order=1, mode="nearest")[20:-20, 20:-20]
        noise = generator.standard_normal(SHAPE[1:])
        images.append(np.clip(128 + 1000 * moved + 12 * noise, 1, 255).astype(np.uint8))
        labels.append(np.roll(cells, 2 * z, axis=0)[20:-20, 20:-20])
    return np.stack(images), np.stack(labels)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An undeformed volume and one simulated from it, one section missing and one dusty."""
    folder = tmp_path_factory.mktemp("volumes")
    image, labels = tissue()
    urls = {"image": stored(folder / "image.zarr", image), "labels": stored(folder / "labels.zarr", labels)}
    simulated = simulate(
        urls["image"],
        str(folder / "simulated.zarr"),
        seed=SEED,
        deformation=DEFORMATION,
        damage=DamageConfig(fraction=0.17, kinds=("dust",), missing=(3,)),
        labels=urls["labels"],
    )
    return {**urls, "simulated": simulated.url}


def recovered(z: int) -> Tensor:
    """The exact inverse of the deformation of section z."""
    drawn = draw_deformation(DEFORMATION, seed=SEED, z=z, shape_yx=SHAPE[1:])
    return inverse(drawn.at(GRID.positions()), spacing=SPACING)


def rigid(z: int) -> AnyArray:
    return invert_affine(draw_deformation(DEFORMATION, seed=SEED, z=z, shape_yx=SHAPE[1:]).affine)


def make_run(
    url: Path,
    *,
    source: str,
    field: Callable[[int], Tensor],
    coarse: Callable[[int], AnyArray] = lambda z: IDENTITY,
    pairs: Callable[[int, int], Tensor] | None = None,
    state: str = "complete",
) -> str:
    create_run(str(url), attributes={"format": 1, "source": source, "state": state})
    info = FieldInfo(spacing=SPACING, shape_mip0=SHAPE)
    chunks = (1, 2, *info.nodes)
    sections = create_field(
        join(str(url), "fields", "section"), info=info, leading=(), components=True, chunks=chunks, shards=None
    )
    affines = create_coarse(join(str(url), "fields", "coarse"), shape_mip0=SHAPE)
    for z in range(SHAPE[0]):
        sections[z] = field(z).numpy()
    affines[:] = np.stack([coarse(z) for z in range(SHAPE[0])])
    if pairs is not None:
        array = create_field(
            join(str(url), "fields", "pairs"),
            info=info,
            leading=(2,),
            components=True,
            chunks=(1, *chunks),
            shards=None,
        )
        for k in (1, 2):
            for z in range(k, SHAPE[0]):
                array[k - 1, z] = pairs(k, z).numpy()
    return str(url)


def zero(z: int) -> Tensor:
    return torch.zeros(2, *GRID.shape)


@pytest.fixture(scope="module")
def full(volumes: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("runs")
    run = make_run(folder / "run.zarr", source=volumes["simulated"], field=recovered, coarse=rigid)
    still = make_run(folder / "still.zarr", source=volumes["image"], field=zero)
    return evaluate(run, truth=volumes["simulated"], undeformed_run=still)


def test_exact_fields_score_as_exact(full: Evaluation) -> None:
    assert [row.name for row in full.rows] == ["observed", "coarse", "aligned", "undeformed"]
    assert full.sections == 5
    for metric in ("jitter_median", "jitter_p95", "drift_max", "recovery_median", "recovery_p95"):
        assert full.value("observed", metric) > 3
        # Undoing the rotation, shift and scale leaves the elastic part, 4 px rms a component.
        assert 1 < full.value("coarse", metric) < full.value("observed", metric) + 3
    assert full.value("aligned", "jitter_median") < 0.02
    assert full.value("aligned", "recovery_median") < 0.02
    assert full.value("aligned", "drift_affine_removed") < 0.2
    assert full.value("aligned", "jitter_sound_median") < 0.02
    assert full.value("observed", "jitter_sound_median") > 3
    assert full.value("aligned", "fold_rate") == 0.0
    assert full.value("aligned", "known") == 1.0
    for row in ("observed", "coarse", "aligned"):
        assert full.value(row, "injected_jitter_median") == 0.0
        assert full.value(row, "injected_drift_max") == 0.0


def test_labels_and_images_come_back_to_what_they_were(full: Evaluation) -> None:
    assert full.value("aligned", "dice_weighted_ratio") == pytest.approx(1.0, abs=0.02)
    assert full.value("aligned", "iou_mean_ratio") == pytest.approx(1.0, abs=0.03)
    assert full.value("observed", "dice_weighted_ratio") < 0.9
    assert full.value("undeformed", "dice_weighted_ratio") == 1.0
    assert full.value("aligned", "ncc") == pytest.approx(full.value("undeformed", "ncc"), abs=0.04)
    assert full.value("observed", "ncc") < full.value("coarse", "ncc") + 0.2
    assert full.value("aligned", "ncc") > full.value("coarse", "ncc") > 0
    assert full.value("aligned", "cpc_64px") > full.value("coarse", "cpc_64px")
    assert 0.2 < full.value("aligned", "compared_share") <= 1


def test_the_record_is_json_and_names_every_metric(full: Evaluation) -> None:
    record = json.loads(json.dumps(full.to_json(), allow_nan=False))
    assert record["rows"]["aligned"]["jitter_median"] == full.value("aligned", "jitter_median")
    assert set(record["metrics"]) == {metric.name for metric in full.metrics}
    for row in full.rows:
        assert set(row.values) <= set(METRICS)
    assert any("Sections without tissue were left out: 3." in note for note in full.notes)
    assert math.isnan(full.value("undeformed", "jitter_median"))
    assert math.isnan(full.value("no such row", "ncc"))


def test_without_truth_only_what_can_be_known_is_given(volumes: dict[str, str], tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run.zarr",
        source=volumes["simulated"],
        field=recovered,
        pairs=lambda k, z: torch.full((2, *GRID.shape), float(k)),
        state="incomplete",
    )
    result = evaluate(run)
    assert [row.name for row in result.rows] == ["observed", "coarse", "aligned"]
    names = {metric.name for metric in result.metrics}
    assert {"ncc", "cpc_64px", "held_out_median", "fold_rate", "strain_p99", "elastic_median"} <= names
    assert not {name for name in names if name.startswith(("jitter", "drift", "recovery", "dice"))}
    assert result.value("aligned", "held_out_median") == 0.0  # 1 + 1 px is 2 px
    assert math.isnan(result.value("coarse", "held_out_median"))
    notes = " ".join(result.notes)
    assert "not complete" in notes
    assert "Without a known truth" in notes
    assert f"give its truth, {volumes['simulated']}" in notes


def test_labels_of_any_source_are_compared(volumes: dict[str, str], tmp_path: Path) -> None:
    """Moving every section back by its 2 px of oblique motion makes labels overlap perfectly: over-alignment."""

    def straighten(z: int) -> Tensor:
        return torch.tensor([2.0 * z, 0.0])[:, None, None].expand(2, *GRID.shape).clone()

    run = make_run(tmp_path / "run.zarr", source=volumes["image"], field=straighten)
    result = evaluate(run, labels=volumes["labels"], fields=[run])
    assert result.value("aligned", "dice_mean") == pytest.approx(1.0, abs=1e-6)
    for metric in ("dice_mean", "ncc", "fold_rate"):  # the same fields as those of another aligner
        assert result.value("run.zarr", metric) == pytest.approx(result.value("aligned", metric), abs=1e-6)
    assert 0.8 < result.value("observed", "dice_mean") < 0.97
    assert result.value("observed", "dice_mean") == result.value("coarse", "dice_mean")
    assert result.value("aligned", "ncc") > result.value("observed", "ncc")


def test_the_null_test_finds_injected_jitter(volumes: dict[str, str], tmp_path: Path) -> None:
    def wobble(z: int) -> Tensor:
        return torch.full((2, *GRID.shape), 3.0 * (z % 2) / math.sqrt(2))

    run = make_run(tmp_path / "run.zarr", source=volumes["simulated"], field=zero)
    null = make_run(tmp_path / "null.zarr", source=volumes["image"], field=wobble)
    result = evaluate(run, undeformed_run=null)
    assert result.value("aligned", "injected_jitter_p95") == pytest.approx(3.0, rel=2e-3)
    assert result.value("aligned", "injected_drift_max") == pytest.approx(3.0, rel=2e-3)
    assert result.value("coarse", "injected_jitter_median") == 0.0


def test_a_field_with_holes_is_reported_and_not_rewarded(volumes: dict[str, str], tmp_path: Path) -> None:
    def half(z: int) -> Tensor:
        field = recovered(z)
        field[:, :, : GRID.shape[1] // 2] = torch.nan
        return field

    run = make_run(tmp_path / "run.zarr", source=volumes["simulated"], field=half)
    result = evaluate(run, truth=volumes["simulated"])
    assert result.value("aligned", "known") == pytest.approx(0.5)
    assert result.value("aligned", "jitter_median") < 0.05
    assert result.value("aligned", "compared_share") < 0.6


def test_jitter_of_sound_sections_leaves_damaged_ones_out(volumes: dict[str, str], tmp_path: Path) -> None:
    """Only the dusty section is off by 6 px: that is jitter, but none between sound sections."""
    truth = Truth.open(volumes["simulated"])
    (dusty,) = truth.damaged - truth.missing

    def off(z: int) -> Tensor:
        moved = torch.full((2, *GRID.shape), 6.0 if z == dusty else 0.0)
        return compose(outer=recovered(z), inner=moved, spacing=SPACING)

    run = make_run(tmp_path / "run.zarr", source=volumes["simulated"], field=off)
    result = evaluate(run, truth=volumes["simulated"])
    assert result.value("aligned", "jitter_p95") > 8
    assert result.value("aligned", "jitter_sound_p95") < 0.05


def test_what_does_not_belong_together_is_refused(volumes: dict[str, str], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", source=volumes["simulated"], field=zero)
    with pytest.raises(SourceError, match="no alignment"):
        evaluate(str(tmp_path / "absent.zarr"))
    with pytest.raises(OutputError, match="not an alignment"):
        evaluate(volumes["image"])
    with pytest.raises(SourceError, match="no simulated volume"):
        evaluate(run, truth=volumes["image"])
    other = stored(tmp_path / "other.zarr", np.ones((2, 64, 64), np.uint8))
    smaller = simulate(
        other, str(tmp_path / "smaller.zarr"), seed=0, deformation=DEFORMATION, damage=DamageConfig()
    ).url
    with pytest.raises(SourceError, match=r"its volume is \(2, 64, 64\)"):
        evaluate(run, truth=smaller)
    with pytest.raises(SourceError, match=r"its shape is \(2, 64, 64\)"):
        evaluate(run, labels=other)
    empty = tmp_path / "empty.zarr"
    create_run(str(empty), attributes={"source": volumes["image"], "state": "planned"})
    with pytest.raises(SourceError, match="no fields/section yet"):
        evaluate(str(empty))


def test_compose_is_what_the_protocol_measures_by(volumes: dict[str, str], tmp_path: Path) -> None:
    """A common gauge after the exact fields changes neither jitter nor recovery."""
    gauge = torch.tensor([5.0, -7.0])[:, None, None].expand(2, *GRID.shape)
    run = make_run(
        tmp_path / "run.zarr",
        source=volumes["simulated"],
        field=lambda z: compose(outer=recovered(z), inner=gauge, spacing=SPACING),
    )
    still = make_run(tmp_path / "still.zarr", source=volumes["image"], field=zero)
    result = evaluate(run, truth=volumes["simulated"], undeformed_run=still)
    assert result.value("aligned", "jitter_median") < 0.05
    assert result.value("aligned", "recovery_median") < 0.05
