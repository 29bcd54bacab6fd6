"""`export --fields` and `--itk`: other tools map points and pixels as this package does, both ways."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import ssem_dask
from ssem_dask.errors import ConfigError, OutputError
from ssem_dask.geometry.box import Box
from ssem_dask.storage.affine_file import read_affine_file
from ssem_dask.storage.exports import field_target
from ssem_dask.storage.volume import Volume
from tests.support.cli import ssem_dask as command
from tests.support.faults import redone, written
from tests.support.field_runs import (
    BROKEN,
    MIRRORED,
    PARTIAL,
    PIXEL_NM,
    SHAPE,
    SMOOTH,
    SPACING,
    THICKNESS_NM,
    TURNED,
    UNKNOWN,
    make_field_run,
    positions,
)

ngff_zarr: Any = pytest.importorskip("ngff_zarr")
sitk: Any = pytest.importorskip("SimpleITK")
pytestmark = pytest.mark.slow

FOLDER = "coordinateTransformations"


@pytest.fixture(autouse=True)
def many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sections per task."""
    monkeypatch.setattr(field_target, "MAX_DEPTH", 2)


def export(run: str, out: Path, **options: Any) -> str:
    options = {"form": "fields", **options}
    assert ssem_dask.export_volume(run, str(out), cluster="serial", **options).state == "complete"
    return str(out)


def physical(points: Any) -> Any:
    """Points (z, y, x) in nm from the centre of pixel 0, as OME-Zarr counts."""
    return (points - [0, 0.5, 0.5]) * [THICKNESS_NM, PIXEL_NM, PIXEL_NM]


def in_pixels(points: Any) -> Any:
    return points / [THICKNESS_NM, PIXEL_NM, PIXEL_NM] + [0, 0.5, 0.5]


def itk_transform(scene: str, direction: str) -> Any:
    """The field of an exported scene, as ngff-zarr hands it to ITK: one 3D transform of points (x, y, z)."""
    attributes: Any = zarr.open_group(scene, mode="r").attrs
    transform = attributes["ome"]["scene"]["coordinateTransformations"][0]
    field = transform[{"to_source": "forward", "to_aligned": "inverse"}[direction]]
    image = ngff_zarr.from_ngff_zarr(f"{scene}/{field['path']}").images[0]
    vectors = np.moveaxis(np.asarray(image.data), 0, -1)[..., ::-1].astype(np.float64)
    itk_image = sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True)
    itk_image.SetSpacing([image.scale[axis] for axis in "xyz"])
    itk_image.SetOrigin([image.translation[axis] for axis in "xyz"])
    return sitk.DisplacementFieldTransform(itk_image)


def moved(transform: Any, points: Any) -> Any:
    """Points in px through a transform of nm."""
    there = [transform.TransformPoint(point[::-1].tolist())[::-1] for point in physical(points)]
    return in_pixels(np.array(there))


def between_known(scene: str, direction: str, points: Any, *, spacing: int) -> Any:
    """Whether the four nodes around a point are known."""
    known = np.asarray(zarr.open_array(f"{scene}/{FOLDER}/{direction}_known/s0", mode="r")[:]) > 0
    index = np.floor(points[:, 1:] / spacing - 0.5).astype(int) + field_target.MARGIN
    z = points[:, 0].astype(int)
    return np.logical_and.reduce([known[z, index[:, 0] + i, index[:, 1] + j] for i in (0, 1) for j in (0, 1)])


@pytest.mark.parametrize("seed", [1, 2])
def test_the_scene_maps_points_both_ways_as_points_does(tmp_path: Path, seed: int) -> None:
    run = make_field_run(tmp_path, seed=seed)
    scene = export(run, tmp_path / "out.zarr", inverse_spacing=1)
    alignment = ssem_dask.open_alignment(run)
    for direction, to, spacing in (("to_source", "source", SPACING), ("to_aligned", "aligned", 1)):
        points = positions(seed=seed, margin=0.51)
        ours = alignment.map_points(points, to=to)
        theirs = moved(itk_transform(scene, direction), points)
        known = between_known(scene, direction, points, spacing=spacing) & np.isfinite(ours).all(axis=1)
        for z in (SMOOTH, TURNED, MIRRORED, BROKEN, PARTIAL):
            here = known & (points[:, 0] == z)
            assert here.sum() > 20, (direction, z)
            error = np.abs(theirs[here] - ours[here])
            assert error.max() < (1e-3 if direction == "to_source" else 0.05), (direction, z)
            assert np.percentile(error, 90) < 1e-3, (direction, z)
        assert not known[points[:, 0] == UNKNOWN].any()
        assert np.isfinite(theirs).all()
    # The inverse of a bilinear field has kinks, so between its nodes it is not exact; at them it is.
    centres = np.floor(positions(seed=seed, margin=1.0)) + np.array([0, 0.5, 0.5])
    ours = alignment.map_points(centres, to="aligned")
    theirs = moved(itk_transform(scene, "to_aligned"), centres)
    known = np.isfinite(ours).all(axis=1)
    assert known.sum() > 200
    assert np.abs(theirs - ours)[known].max() < 1e-3


def test_the_stated_error_of_the_inverse_is_the_true_one(tmp_path: Path) -> None:
    run = make_field_run(tmp_path)
    scene = export(run, tmp_path / "out.zarr")
    alignment = ssem_dask.open_alignment(run)
    points = positions(seed=5, count=3000, margin=SPACING)
    ours = alignment.map_points(points, to="aligned")
    theirs = moved(itk_transform(scene, "to_aligned"), points)
    back = alignment.map_points(theirs, to="source")
    stated = np.asarray(zarr.open_array(f"{scene}/{FOLDER}/residual", mode="r")[:]) / PIXEL_NM
    usable = between_known(scene, "to_aligned", points, spacing=SPACING) & np.isfinite(ours).all(axis=1)
    for z in (SMOOTH, TURNED, MIRRORED):
        error = np.linalg.norm((back - points)[usable & (points[:, 0] == z), 1:], axis=1)
        assert error.max() < 2 * stated[z, 2]
        assert 0.3 * stated[z, 0] < error.mean() < 1.5 * stated[z, 0]
    attributes: Any = zarr.open_group(scene, mode="r").attrs
    assert attributes["ssem_dask_fields"]["inverse_error_nm"]["largest"] == pytest.approx(
        PIXEL_NM * np.nanmax(stated), rel=1e-4
    )


def test_it_conforms_to_the_released_schemas(tmp_path: Path) -> None:
    scene = Path(export(make_field_run(tmp_path), tmp_path / "out.zarr"))

    def metadata(path: str) -> dict[str, Any]:
        return {"attributes": json.loads((scene / path / "zarr.json").read_text())["attributes"]}

    for path in (
        "aligned",
        "source",
        *(f"{FOLDER}/{name}{kind}" for name in field_target.DIRECTIONS for kind in ("", "_known")),
    ):
        ngff_zarr.validate(metadata(path)["attributes"], version="0.6", model="image")
    ngff_zarr.validate(metadata("")["attributes"], version="0.6", model="scene")
    read = ngff_zarr.from_ome_zarr(str(scene), kind="scene")
    assert sorted(read.images) == ["aligned", "source"]
    field = zarr.open_array(str(scene / FOLDER / "to_source" / "s0"), mode="r")
    assert field.shape == (3, SHAPE[0], -(-SHAPE[1] // SPACING) + 2, -(-SHAPE[2] // SPACING) + 2)
    assert field.shards is not None
    assert not np.any(field[0])
    assert len([p for p in (scene / FOLDER / "to_source" / "s0").rglob("*") if p.is_file()]) == 1 + SHAPE[0] // 2


def test_neuroglancer_gets_no_unknown_transform_in_the_images(tmp_path: Path) -> None:
    scene = Path(export(make_field_run(tmp_path), tmp_path / "out.zarr"))
    for name in ("aligned", "source"):
        (image,) = json.loads((scene / name / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
        assert "coordinateTransformations" not in image
        assert len(image["coordinateSystems"]) == 1


def test_itk_resamples_a_section_as_render_does(tmp_path: Path) -> None:
    run = make_field_run(tmp_path, pixels=True)
    folder = Path(export(run, tmp_path / "itk", form="itk"))
    alignment = ssem_dask.open_alignment(run)
    source = Volume.open(str(tmp_path / "source.zarr"))
    for z in (SMOOTH, TURNED, MIRRORED):
        section = sitk.GetImageFromArray(source.read(Box((z, 0, 0), (z + 1, *SHAPE[1:])))[0].astype(np.float32))
        section.SetSpacing([PIXEL_NM, PIXEL_NM])
        field = sitk.ReadImage(str(folder / "to_source" / f"section-{z:05d}.nrrd"), sitk.sitkVectorFloat64)
        theirs = sitk.GetArrayFromImage(
            sitk.Resample(section, section, sitk.DisplacementFieldTransform(field), sitk.sitkLinear, 0.0)
        )
        ours = alignment.warp(source, z=z, kind="bilinear")
        inside = (theirs > 0) & (ours > 0)
        assert inside.mean() > 0.8
        assert np.abs(theirs - ours)[inside].max() < 0.6  # ours is rounded
        back = sitk.ReadImage(str(folder / "to_aligned" / f"section-{z:05d}.nrrd"), sitk.sitkVectorFloat64)
        there = moved_2d(sitk.DisplacementFieldTransform(back), positions(seed=3, margin=20.0))
        mapped = alignment.map_points(
            np.column_stack([np.full(len(there), z), positions(seed=3, margin=20.0)[:, 1:]]), to="aligned"
        )
        assert np.nanmedian(np.abs(there - mapped[:, 1:])) < 0.1


def moved_2d(transform: Any, points: Any) -> Any:
    there = [transform.TransformPoint(((point[::-1] - 0.5) * PIXEL_NM).tolist())[::-1] for point in points[:, 1:]]
    return np.array(there) / PIXEL_NM + 0.5


def test_itk_reads_whole_transforms(tmp_path: Path) -> None:
    run = make_field_run(tmp_path)
    folder = Path(export(run, tmp_path / "itk", form="itk-h5"))
    alignment = ssem_dask.open_alignment(run)
    points = positions(seed=3, margin=20.0)
    for z in (SMOOTH, TURNED, MIRRORED):
        placed = np.column_stack([np.full(len(points), z), points[:, 1:]])
        for direction, to, most in (("to_source", "source", 1e-3), ("to_aligned", "aligned", 0.5)):
            transform = sitk.ReadTransform(str(folder / direction / f"section-{z:05d}.h5"))
            ours = alignment.map_points(placed, to=to)[:, 1:]
            known = np.isfinite(ours).all(axis=1)
            assert known.any()
            assert np.abs(moved_2d(transform, points) - ours)[known].max() < most
    assert (folder / "affines.csv").exists()


def test_points_and_mask_of_a_broken_section(tmp_path: Path) -> None:
    """Each side is mapped by its own part, both ways; what is lost between them is unknown in points and mask."""
    run = make_field_run(tmp_path)
    scene = export(run, tmp_path / "out.zarr", inverse_spacing=1)
    alignment = ssem_dask.open_alignment(run)
    field = alignment.field(BROKEN)
    y, x = (np.arange(n) * SPACING + SPACING / 2 for n in field.shape[1:])
    lost = ~np.isfinite(field[0]).any(axis=0)
    assert lost.any()
    left, right = x < x[lost].min(), x > x[lost].max()
    assert right.any()
    for side, jump in ((left, 0.0), (right, 20.0)):
        rows, columns = np.meshgrid(y[2:-2], x[side], indexing="ij")
        points = np.column_stack([np.full(rows.size, BROKEN), rows.ravel(), columns.ravel()])
        there = alignment.map_points(points, to="source")
        assert abs(np.median(there[:, 2] - points[:, 2]) - jump) < 3
        moved_by = there[:, 1:] - points[:, 1:]
        np.testing.assert_allclose(moved_by, field[:, 2:-2][:, :, side].reshape(2, -1).T, atol=1e-3)
        back = alignment.map_points(there, to="aligned")
        found = np.isfinite(back).all(axis=1)
        assert found.mean() > 0.9
        np.testing.assert_allclose(back[found], points[found], atol=0.01)
    gap = np.array([[BROKEN, 70.0, float(x[lost].mean())]])
    assert np.isnan(alignment.map_points(gap, to="source")[0, 1:]).all()
    known = np.asarray(zarr.open_array(f"{scene}/{FOLDER}/to_source_known/s0", mode="r")[BROKEN])
    inner = known[field_target.MARGIN : -field_target.MARGIN, field_target.MARGIN : -field_target.MARGIN]
    np.testing.assert_array_equal(inner > 0, np.isfinite(field[0]))
    # The way back knows no tissue inside the gap: what it calls known maps there and back.
    inverse = np.asarray(zarr.open_array(f"{scene}/{FOLDER}/to_aligned_known/s0", mode="r")[BROKEN]) > 0
    inverse = inverse[field_target.MARGIN : -field_target.MARGIN, field_target.MARGIN : -field_target.MARGIN]
    rows, columns = np.nonzero(inverse)
    pixels = np.column_stack([np.full(len(rows), BROKEN), rows + 0.5, columns + 0.5])
    there = alignment.map_points(pixels, to="aligned")
    assert np.isfinite(there).all()
    np.testing.assert_allclose(alignment.map_points(there, to="source"), pixels, atol=0.02)
    assert 0.5 < inverse.mean() < 0.98


def test_affines_can_be_the_start_of_another_run(tmp_path: Path) -> None:
    run = make_field_run(tmp_path)
    alone = Path(export(run, tmp_path / "affines", form="affines"))
    whole = Path(export(run, tmp_path / "itk", form="itk"))
    assert (alone / "affines.csv").read_bytes() == (whole / "affines.csv").read_bytes()
    read = read_affine_file(str(alone / "affines.csv"), sections=SHAPE[0], digest=None).affines
    assert np.isnan(read[UNKNOWN]).all()
    np.testing.assert_allclose(read[TURNED, :, :2], -np.eye(2), atol=0.2)
    np.testing.assert_allclose(read[MIRRORED, :, :2], np.diag([1, -1]), atol=0.2)


@pytest.mark.parametrize("form", ["fields", "itk", "itk-h5"])
def test_it_resumes_and_follows_the_run(tmp_path: Path, form: str) -> None:
    run = make_field_run(tmp_path)
    out = export(run, tmp_path / "out.zarr", form=form)
    before = written(out)
    export(run, Path(out), form=form)
    assert before
    assert not redone(before, out)
    field = zarr.open_array(f"{run}/fields/section", mode="r+")
    field[3] = np.asarray(field[3]) + 1
    export(run, Path(out), form=form)
    assert len(redone(before, out)) == 1
    fresh = export(run, tmp_path / "fresh.zarr", form=form)
    for path in Path(fresh).rglob("*"):
        relative = path.relative_to(fresh)
        if path.is_file() and relative.parts[0] != "ledger":
            assert path.read_bytes() == (Path(out) / relative).read_bytes(), relative


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    run = make_field_run(tmp_path)
    with pytest.raises(ConfigError, match="inverse_spacing = 0"):
        export(run, tmp_path / "out.zarr", inverse_spacing=0)
    with pytest.raises(ConfigError, match="form = 'ngff'"):
        export(run, tmp_path / "out.zarr", form="ngff")
    with pytest.raises(ConfigError, match="leave these arguments out"):
        export(run, tmp_path / "out.zarr", labels=True)
    out = export(run, tmp_path / "out.zarr")
    with pytest.raises(OutputError, match="with other options"):
        export(run, Path(out), inverse_spacing=4)
    with pytest.raises(OutputError):
        export(run, Path(run) / "fields" / "exported")


def test_the_command(tmp_path: Path) -> None:
    run, out = make_field_run(tmp_path), str(tmp_path / "out.zarr")
    shown = command("export", run, out, "--fields", "--cluster", "serial")
    assert "to_aligned: nodes every 8 px" in shown.stderr
    assert (tmp_path / "out.zarr" / "zarr.json").exists()
